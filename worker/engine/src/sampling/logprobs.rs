//! Log-probabilities of the model's own distribution.

use crate::event::TokenLogprobs;

use super::row::{self, Weigh};
use super::select;

/// The log-probability of `token` under the softmax of `logits`, and the `top` likeliest tokens.
/// A token outside the row has -∞.
pub(crate) fn token_logprobs(logits: &[f32], token: u32, top: usize) -> TokenLogprobs {
    let max = row::max(logits);
    let weigh = Weigh { max, scale: 1.0, floor: f32::NEG_INFINITY };
    let log_mass = f64::from(max) + weigh.mass(logits).ln();
    let logprob = |logit: f32| (f64::from(logit) - log_mass) as f32;
    let mut likeliest = Vec::new();
    select::likeliest(logits, weigh, top, &mut likeliest);
    likeliest.sort_unstable_by(select::likelier);
    TokenLogprobs {
        logprob: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit)),
        top: likeliest.iter().map(|token| (token.id, logprob(token.logit))).collect(),
    }
}
