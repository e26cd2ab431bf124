//! The inference engine: deterministic given weights, requests and seed.

mod detokenize;
mod engine;
mod event;
mod kv;
mod request;
mod sampling;
mod schedule;
mod stop;

pub use engine::{
    Batch, ConfigError, Engine, EngineConfig, EngineStats, Forward, PrefixCache, Span, Vocabulary,
};
pub use event::{Event, FinishReason, StopReason, TokenLogprobs, TokenOutput, Usage};
pub use kv::KV_BLOCK_TOKENS;
pub use request::{Limits, Refusal, Request, RequestId, StopRules, WAITING_CHOICES_MAX};
pub use sampling::{CHOICES_MAX, LOGPROBS_MAX, Sampling, SamplingError};
