//! What the engine tells about its requests, in the order in which it happened.

use std::sync::Arc;

use crate::request::RequestId;

/// One fact about one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The request entered its first step; it has left the queue. Once per request, before any
    /// other event but `Finished` by cancellation.
    Scheduled {
        /// Whose.
        id: RequestId,
        /// Prompt tokens found in the prefix cache.
        cached_tokens: usize,
    },
    /// Log-probabilities of the prompt's tokens from the second on. Once per request that asked,
    /// before its first `Output`.
    Prompt {
        /// Whose.
        id: RequestId,
        /// One for each prompt token but the first.
        tokens: Vec<TokenOutput>,
    },
    /// A choice went on. One event for each sampled token, however little text it released.
    Output {
        /// Whose.
        id: RequestId,
        /// Which of the request's `n` answers, from 0.
        choice: u32,
        /// Text released by this step: whole grapheme clusters, never part of a stop string;
        /// empty while a cluster or a possible stop string is being held back.
        text: String,
        /// The sampled tokens, an end-of-generation or stop token included.
        tokens: Vec<TokenOutput>,
    },
    /// A choice is over; the last `Output` carried the rest of its text.
    Finished {
        /// Whose.
        id: RequestId,
        /// Which of the request's `n` answers.
        choice: u32,
        /// Why it ended.
        reason: FinishReason,
        /// What ended it; None for the model's own end-of-generation token.
        stop_reason: Option<StopReason>,
        /// Tokens counted for this choice.
        usage: Usage,
        /// Whether the request's other choices are over too: nothing of this id follows.
        last: bool,
    },
    /// The whole request failed in the engine; nothing of this id follows.
    Failed {
        /// Whose.
        id: RequestId,
        /// What went wrong, for logs; a client learns only that it was our fault.
        error: Arc<str>,
        /// Another replica may well answer it: this one has lost a rank.
        elsewhere: bool,
    },
}

/// A token with what was asked to be known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenOutput {
    /// Token id.
    pub id: u32,
    /// Present where log-probabilities were asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities under the model's own distribution: before penalties, bias and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token itself, in nats.
    pub logprob: f32,
    /// The likeliest tokens, best first; the token itself is among them only if it is that likely.
    pub top: Vec<(u32, f32)>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// By a stop string, a stop token or the model's end-of-generation token.
    Stop,
    /// By `max_tokens` or the end of the context.
    Length,
    /// By `Engine::cancel`.
    Cancelled,
}

/// Which of the request's own stop rules ended a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// One of `StopRules::strings`.
    String(String),
    /// One of `StopRules::token_ids`.
    Token(u32),
}

/// What one choice cost. The prompt is the same for every choice: count it once per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Of those, found in the prefix cache when the request was first scheduled.
    pub cached_tokens: usize,
    /// Tokens sampled for this choice.
    pub completion_tokens: usize,
}
