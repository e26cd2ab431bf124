//! Log-probabilities of the model's own distribution.

use crate::event::TokenLogprobs;

use super::row::{self, Weigh};
use super::select::{self, Candidate};

/// Distances below the largest logit, in nats, at which the likeliest tokens are looked for in turn.
const DISTANCES: [f32; 5] = [2.0, 5.0, 10.0, 20.0, f32::INFINITY];

/// The log-probability of `token` under the softmax of `logits`, and the `top` likeliest tokens.
/// A token outside the row has -∞.
pub(crate) fn token_logprobs(logits: &[f32], token: u32, top: usize) -> TokenLogprobs {
    let max = row::max(logits);
    let weigh = Weigh { max, scale: 1.0 };
    let log_mass = f64::from(max) + weigh.mass(logits).ln();
    let logprob = |logit: f32| (f64::from(logit) - log_mass) as f32;
    let mut likeliest = likeliest(logits, weigh, top);
    likeliest.sort_unstable_by(select::likelier);
    TokenLogprobs {
        logprob: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit)),
        top: likeliest.iter().map(|token| (token.id, logprob(token.logit))).collect(),
    }
}

fn likeliest(logits: &[f32], weigh: Weigh, count: usize) -> Vec<Candidate> {
    let mut found = Vec::new();
    for distance in DISTANCES {
        if found.len() >= count.min(logits.len()) {
            break;
        }
        select::collect(logits, weigh.max - distance, weigh, &mut found);
    }
    select::keep_likeliest(&mut found, count);
    found
}
