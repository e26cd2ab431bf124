//! The inference engine: deterministic given weights, requests and seed.

mod config;
mod decoder;
mod detokenize;
mod engine;
mod event;
mod gguf;
mod kv;
mod model;
mod request;
mod sampling;
mod schedule;
mod sim;
mod stop;
mod template;
mod tokenizer;
mod weights;

pub use config::{
    AttentionConfig, ConfigReadError, FeedForwardConfig, LayerConfig, ModelConfig, Multipliers,
    NormConfig, NormKind, NormPlacement, QkNorm, Rope, RopeScaling,
};
pub use decoder::{
    Clock, Collective, CollectiveError, CudaDecoder, CudaLimits, CudaLoadError, CudaModel, Decoder,
    LinkTime, LoadError, LoadProgress, LocalDecoder, MESSAGES_MAX, Parallelism, PlanError,
    RankDecoder, RankError, Shard, ShardError, ShardedDecoder, SingleRank, Splits, StepError,
    ThreadCollective, read_plans, serve_rank,
};
pub use detokenize::{Detokenizer, HELD_BYTES_MAX};
pub use engine::{
    Batch, ConfigError, Engine, EngineConfig, EngineStats, Forward, PrefixCache, Span, StepCost,
    Vocabulary,
};
pub use event::{Event, FinishReason, StopReason, TokenLogprobs, TokenOutput, Usage};
pub use gguf::{
    Array, GgufError, GgufFile, Metadata, Strings, TensorInfo, TensorType, Value, ValueType,
};
pub use kv::KV_BLOCK_TOKENS;
pub use model::{GenerationDefaults, ModelFiles, OpenError, TokenizerSource};
pub use request::{Limits, Refusal, Request, RequestId, StopRules, WAITING_CHOICES_MAX};
pub use sampling::{
    CHOICES_MAX, LOGPROBS_MAX, RowSampling, SampledRow, Sampler, Sampling, SamplingError,
};
pub use sim::{SIM_PROFILES, SimModel, SimProfile};
pub use template::{ChatInput, ChatTemplate, TemplateError, UnixSeconds};
pub use tokenizer::{EncodeOptions, GgufVocabulary, TokenKind, Tokenizer, TokenizerError};
pub use weights::{WeightError, WeightSample};
