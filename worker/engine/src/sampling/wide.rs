//! top_p where it keeps thousands of tokens: a hot or flat distribution.
//!
//! Tokens fall into buckets by their distance from the likeliest. The cut lies in one bucket, whose
//! tokens alone are put in order; those of nearer buckets all stay, those of farther ones all go.

use super::row::{BLOCK, Weigh};
use super::select::{self, Candidate};

/// Buckets in one unit of the exponent.
const BUCKETS_PER_UNIT: f32 = 16.0;
/// Beyond these, 87 units, weights are 0.
const BUCKETS: usize = 87 * BUCKETS_PER_UNIT as usize + 1;

/// Memory to work in.
#[derive(Debug, Default)]
pub(super) struct WideNucleus {
    weights: Vec<f32>,
    masses: Vec<f64>,
    border: Vec<Candidate>,
}

impl WideNucleus {
    /// Draws from the likeliest tokens that weigh `mass` together.
    pub(super) fn draw(
        &mut self,
        logits: &[f32],
        weigh: Weigh,
        mass: f64,
        random: f64,
    ) -> Option<u32> {
        self.weigh(logits, weigh);
        let mut before = 0.0;
        let border = self.masses.iter().position(|bucket| {
            let reached = before + bucket >= mass;
            before += if reached { 0.0 } else { *bucket };
            reached
        });
        let border = border.unwrap_or(BUCKETS);
        let tokens = (0..).zip(logits).zip(&self.weights).filter(|(_, weight)| **weight > 0.0);
        let at_border = tokens.filter(|((_, logit), _)| bucket(weigh, **logit) == border);
        self.border.clear();
        self.border.extend(at_border.map(|((id, &logit), _)| weigh.candidate(id, logit)));
        select::keep_mass(&mut self.border, mass - before);
        let mut left = random * (before + select::total(&self.border));
        let mut last = None;
        if left < before {
            for (id, (&logit, &weight)) in (0..).zip(logits.iter().zip(&self.weights)) {
                if weight > 0.0 && bucket(weigh, logit) < border {
                    last = Some(id);
                    if left < f64::from(weight) {
                        return last;
                    }
                    left -= f64::from(weight);
                }
            }
            return last;
        }
        select::draw(&self.border, left - before)
    }

    /// Weighs each token, and each bucket.
    fn weigh(&mut self, logits: &[f32], weigh: Weigh) {
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&logit| weigh.weight(logit)));
        self.masses.clear();
        self.masses.resize(BUCKETS, 0.0);
        for (logits, weights) in logits.chunks(BLOCK).zip(self.weights.chunks(BLOCK)) {
            for (&logit, &weight) in logits.iter().zip(weights) {
                self.masses[bucket(weigh, logit)] += f64::from(weight);
            }
        }
    }
}

/// Ascends with the distance. What is not a number weighs nothing, so its bucket does not matter.
fn bucket(weigh: Weigh, logit: f32) -> usize {
    ((weigh.distance(logit) * BUCKETS_PER_UNIT) as usize).min(BUCKETS - 1)
}
