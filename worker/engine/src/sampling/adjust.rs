//! What a request changes in the logits before anything is drawn. Each change touches few tokens.

use std::collections::{HashMap, HashSet};

use naru_kernels::cuda::TokenChange;

use super::{NextToken, Sampling};

/// Which tokens a sequence has seen, as far as penalties need to know.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    prompt: HashSet<u32>,
    /// Occurrences of each output token.
    output: HashMap<u32, u32>,
    tracked: bool,
}

impl History {
    /// The history of a prompt with no output yet; remembers nothing if no penalty asks for it.
    pub(crate) fn new(prompt: &[u32], sampling: &Sampling) -> Self {
        let repetition = sampling.repetition_penalty != 1.0;
        let tracked =
            repetition || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0;
        let prompt = if repetition { prompt.iter().copied().collect() } else { HashSet::new() };
        Self { prompt, output: HashMap::new(), tracked }
    }

    /// Counts an output token.
    pub(crate) fn push(&mut self, token: u32) {
        if self.tracked {
            *self.output.entry(token).or_default() += 1;
        }
    }
}

/// Whether `apply` would change anything.
pub(super) fn is_needed(sampling: &Sampling, history: &History, masked: &[u32]) -> bool {
    history.tracked || !sampling.logit_bias.is_empty() || !masked.is_empty()
}

/// Applies bias, penalties and masks to a row of logits, in this order. Tokens outside the row are
/// ignored.
pub(super) fn apply(logits: &mut [f32], sampling: &Sampling, history: &History, masked: &[u32]) {
    for &(token, bias) in &sampling.logit_bias {
        change(logits, token, |logit| logit + bias);
    }
    let repetition = sampling.repetition_penalty;
    if repetition != 1.0 {
        let unprompted = history.output.keys().filter(|token| !history.prompt.contains(token));
        for &token in history.prompt.iter().chain(unprompted) {
            change(logits, token, |logit| match logit > 0.0 {
                true => logit / repetition,
                false => logit * repetition,
            });
        }
    }
    for (&token, &count) in &history.output {
        let penalty = sampling.frequency_penalty * count as f32 + sampling.presence_penalty;
        change(logits, token, |logit| logit - penalty);
    }
    for &token in masked {
        change(logits, token, |_| f32::NEG_INFINITY);
    }
}

/// Adds to `found` what `apply` does, each token once, without those outside of a row of
/// `vocab_size`.
pub(crate) fn changes(next: &NextToken<'_>, vocab_size: usize, found: &mut Vec<TokenChange>) {
    let NextToken { sampling, history, masked, .. } = *next;
    let History { prompt, output, .. } = history;
    let of = |token: u32| TokenChange {
        token,
        count: output.get(&token).copied().unwrap_or(0),
        is_in_prompt: prompt.contains(&token),
        ..TokenChange::default()
    };
    let biased = sampling.logit_bias.iter().map(|&(token, bias)| TokenChange { bias, ..of(token) });
    let is_masked = true;
    let never = masked.iter().map(|&token| TokenChange { is_masked, ..of(token) });
    let mut named: Vec<TokenChange> = biased.chain(never).collect();
    named.sort_by_key(|change| change.token);
    named.dedup_by(|again, first| {
        let is_same = again.token == first.token;
        if is_same {
            first.bias += again.bias;
            first.is_masked |= again.is_masked;
        }
        is_same
    });
    let is_named = |token| named.binary_search_by_key(&token, |change| change.token).is_ok();
    let unprompted = output.keys().filter(|token| !prompt.contains(token));
    let seen = prompt.iter().chain(unprompted).copied().filter(|token| !is_named(*token));
    let all = seen.map(of).chain(named.iter().copied());
    found.extend(all.filter(|change| (change.token as usize) < vocab_size));
}

fn change(logits: &mut [f32], token: u32, to: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = to(*logit);
    }
}
