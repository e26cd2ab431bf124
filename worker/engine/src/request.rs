//! What is asked of the engine: a prompt in tokens, how to sample, when to stop.

use crate::sampling::{Sampling, SamplingError};

/// Prompts and their choices waiting for their first step, beyond which `admit` refuses.
pub const WAITING_CHOICES_MAX: usize = 1024;

/// Names one request for as long as the engine knows it; chosen by the caller, unique among the
/// requests in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One request: `sampling.n` answers to one prompt.
#[derive(Debug, Clone)]
pub struct Request {
    /// Comes back in every event of this request.
    pub id: RequestId,
    /// Token ids, with every special token already in place; at least one.
    pub prompt: Vec<u32>,
    /// Requests share cached prefixes only with requests of an equal salt.
    pub tenant_salt: u64,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// How long the answer may and must be.
    pub limits: Limits,
    /// What ends the answer early.
    pub stop: StopRules,
    /// Some(k): each output token comes with its log-probability and the k likeliest tokens.
    pub logprobs: Option<u32>,
    /// Some(k): the same for every prompt token but the first, in one `Event::Prompt`. Such a
    /// request computes its whole prompt and reuses no cached prefix.
    pub prompt_logprobs: Option<u32>,
    /// Leaves special tokens out of the text (they stay in the token lists).
    pub skip_special_tokens: bool,
}

/// Bounds on the number of output tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most this many output tokens; None: as many as the context holds. Zero computes the
    /// prompt and samples nothing.
    pub max_tokens: Option<usize>,
    /// No end-of-generation token, stop token or stop string ends an answer up to this length.
    pub min_tokens: usize,
    /// The model's own end-of-generation tokens do not end the answer.
    pub ignore_eos: bool,
}

/// What ends an answer besides its length and the model's own end-of-generation tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopRules {
    /// Any of these in the text ends the answer; empty strings are ignored.
    pub strings: Vec<String>,
    /// Any of these tokens ends the answer.
    pub token_ids: Vec<u32>,
    /// Whether the text that ended the answer is part of it.
    pub include_stop_str_in_output: bool,
}

/// Why a request was not admitted. Nothing of it is kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A prompt needs a token to predict from.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// The prompt and the tokens asked for exceed what one sequence may hold.
    #[error(
        "the context holds {context_tokens} tokens; the prompt has {prompt_tokens} and \
         {max_tokens} more were asked for"
    )]
    ContextOverflow {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// Output tokens asked for (1 where no number was given).
        max_tokens: usize,
        /// Tokens that prompt and output may have together.
        context_tokens: usize,
    },
    /// The model has no such token.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutsideVocabulary {
        /// The offending prompt token.
        token: u32,
        /// Tokens the model knows.
        vocab_size: usize,
    },
    /// A sampling parameter is out of its range.
    #[error("sampling parameters")]
    Sampling(#[source] SamplingError),
    /// A request of this id is still running.
    #[error("request {0:?} is already running")]
    DuplicateId(RequestId),
    /// `WAITING_CHOICES_MAX` would be exceeded; try again later.
    #[error("{waiting} choices are waiting already, at most {WAITING_CHOICES_MAX} may")]
    QueueFull {
        /// Choices waiting now.
        waiting: usize,
    },
}
