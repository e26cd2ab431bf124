//! The likeliest tokens of a row, without sorting it.

use std::cmp::Ordering;

use super::row::Weigh;

/// Logits looked at together: a block without a candidate is passed over in a few instructions.
const SKIP: usize = 32;
/// Candidates few enough to sort at once.
const SORT_MAX: usize = 64;

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f32,
    /// In proportion to its probability.
    pub(super) weight: f32,
}

/// Likeliest first; of equals the lower id.
pub(super) fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Every token with a logit of at least `floor`, by id. NaN is below every floor.
pub(super) fn collect(logits: &[f32], floor: f32, weigh: Weigh, found: &mut Vec<Candidate>) {
    found.clear();
    for (index, block) in logits.chunks(SKIP).enumerate() {
        if !block.iter().fold(false, |any, &logit| any | (logit >= floor)) {
            continue;
        }
        let first = index * SKIP;
        for (offset, &logit) in block.iter().enumerate() {
            if logit >= floor {
                let id = (first + offset) as u32;
                found.push(Candidate { id, logit, weight: weigh.weight(logit) });
            }
        }
    }
}

/// Cuts to the `count` likeliest, in no particular order.
pub(super) fn keep_likeliest(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, likelier);
        candidates.truncate(count);
    }
}

/// Cuts to the fewest likeliest whose weights reach `mass` together; at least one stays. Finds the
/// cut by halving, each time summing only the half that it might lie in: linear, and exact.
pub(super) fn keep_mass(candidates: &mut Vec<Candidate>, mass: f64) {
    let (mut start, mut end) = (0, candidates.len());
    let mut before = 0.0;
    while end - start > SORT_MAX {
        let half = (end - start) / 2;
        candidates[start..end].select_nth_unstable_by(half, likelier);
        let upper = total(&candidates[start..start + half]);
        if before + upper >= mass {
            end = start + half;
        } else {
            before += upper;
            start += half;
        }
    }
    candidates[start..end].sort_unstable_by(likelier);
    while start < end && (start == 0 || before < mass) {
        before += f64::from(candidates[start].weight);
        start += 1;
    }
    candidates.truncate(start);
}

/// The sum of the candidates' weights.
pub(super) fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}
