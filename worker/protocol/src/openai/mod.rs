//! OpenAI's HTTP API, with vLLM's extensions under vLLM's names.
//!
//! A request body is read in *facets*: several small types are deserialised from the same bytes,
//! each knowing its own fields, so that an error names the exact field (`messages[0].content`)
//! and no field list is written twice. What no facet knows is ignored, as OpenAI does; what is
//! known and would change the answer but is not offered is refused by the list in `refused.rs`.

mod answer;
mod chat;
mod completions;
mod error;
mod message;
mod read;
mod refused;
mod sampling;
mod tokens;

pub use answer::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatMessage,
    Completion, CompletionChoice, CompletionLogprobs, Model, ModelList, PromptTokensDetails,
    TokenLogprob, TopLogprob, Usage,
};
pub use chat::{ChatRequest, TemplateInput};
pub use completions::{CompletionRequest, Prompt};
pub use error::{ApiError, ErrorBody};
pub use message::{Content, Message, Role, TextPart};
pub use read::{RequestHead, read_head};
pub use sampling::{LOGPROBS_MAX, N_MAX, STOP_BYTES_MAX, STOP_STRINGS_MAX, Sampling, Streaming};
pub use tokens::{
    DetokenizeReply, DetokenizeRequest, TokenizeInput, TokenizeReply, TokenizeRequest,
};
