//! One answer in the making: from sampled tokens to text, and when it ends.

use std::sync::Arc;

use crate::detokenize::Detokenizer;
use crate::event::{FinishReason, StopReason};
use crate::request::Request;
use crate::sampling::History;
use crate::stop::{StopMatcher, StopStrings};

use super::Vocabulary;

/// What one choice has become so far.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) history: History,
    /// Tokens sampled.
    pub(super) output_tokens: usize,
    stop: StopMatcher,
    text: Detokenizer,
}

/// What one more token did.
#[derive(Debug)]
pub(super) struct Pushed {
    /// Text that is certain now.
    pub(super) text: String,
    /// Set if the choice is over.
    pub(super) end: Option<End>,
}

/// Why a choice is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) reason: FinishReason,
    pub(super) stop_reason: Option<StopReason>,
}

impl End {
    pub(super) const LENGTH: Self = Self { reason: FinishReason::Length, stop_reason: None };
    pub(super) const CANCELLED: Self = Self { reason: FinishReason::Cancelled, stop_reason: None };

    fn stop(stop_reason: Option<StopReason>) -> Self {
        Self { reason: FinishReason::Stop, stop_reason }
    }
}

impl Choice {
    pub(super) fn new(request: &Request, strings: Arc<StopStrings>) -> Self {
        Self {
            history: History::new(&request.prompt, &request.sampling),
            output_tokens: 0,
            stop: StopMatcher::new(strings),
            text: Detokenizer::new(),
        }
    }

    /// Takes a sampled token. The choice ends by a stop rule, or at `tokens_max` output tokens.
    pub(super) fn push(
        &mut self,
        token: u32,
        tokens_max: usize,
        request: &Request,
        vocabulary: &dyn Vocabulary,
    ) -> Pushed {
        self.output_tokens += 1;
        self.history.push(token);
        let ended = stopped_by(token, request, vocabulary);
        let is_text = ended.is_none() || request.stop.include_stop_str_in_output;
        let is_hidden = request.skip_special_tokens && vocabulary.is_special(token);
        let bytes = match is_text && !is_hidden {
            true => vocabulary.token_bytes(token),
            false => &[],
        };
        let armed = self.output_tokens > request.limits.min_tokens;
        let released = self.stop.push(bytes, armed);
        let mut text = self.text.push(&released.bytes);
        let end = ended
            .or_else(|| released.stop.map(|stop| End::stop(Some(StopReason::String(stop)))))
            .or_else(|| (self.output_tokens >= tokens_max).then_some(End::LENGTH));
        if end.is_some() {
            text.push_str(&self.text.push(&self.stop.finish()));
            text.push_str(&self.text.finish());
        }
        Pushed { text, end }
    }
}

/// Tokens that must not be sampled while an answer is shorter than `min_tokens`.
pub(super) fn stop_tokens(request: &Request, vocabulary: &dyn Vocabulary) -> Vec<u32> {
    let eos = if request.limits.ignore_eos { &[] } else { vocabulary.eos_ids() };
    request.stop.token_ids.iter().chain(eos).copied().collect()
}

fn stopped_by(token: u32, request: &Request, vocabulary: &dyn Vocabulary) -> Option<End> {
    if !request.limits.ignore_eos && vocabulary.eos_ids().contains(&token) {
        return Some(End::stop(None));
    }
    let ours = request.stop.token_ids.contains(&token);
    ours.then(|| End::stop(Some(StopReason::Token(token))))
}
