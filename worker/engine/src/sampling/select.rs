//! The likeliest tokens of a row, without sorting it.

use std::cmp::Ordering;

use super::row::Weigh;

/// Logits looked at together: a block without a candidate is passed over in a few instructions.
const SKIP: usize = 32;
/// Candidates few enough to sort at once.
const SORT_MAX: usize = 64;
/// Candidates worth writing down one by one.
const CANDIDATES_MAX: usize = 8192;

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) logit: f32,
    /// In proportion to its probability.
    pub(super) weight: f32,
}

impl Weigh {
    pub(super) fn candidate(self, id: u32, logit: f32) -> Candidate {
        Candidate { id, logit, weight: self.weight(logit) }
    }
}

/// Likeliest first; of equals the lower id.
pub(super) fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Every token with a logit of at least `floor`, by id. NaN is below every floor. False: there are
/// more than `CANDIDATES_MAX`, and some were left out.
pub(super) fn collect(
    logits: &[f32],
    floor: f32,
    weigh: Weigh,
    found: &mut Vec<Candidate>,
) -> bool {
    found.clear();
    for (index, block) in logits.chunks(SKIP).enumerate() {
        if !block.iter().fold(false, |any, &logit| any | (logit >= floor)) {
            continue;
        }
        if found.len() + SKIP > CANDIDATES_MAX {
            return false;
        }
        let ids = (index * SKIP) as u32..;
        let near = ids.zip(block).filter(|(_, logit)| **logit >= floor);
        found.extend(near.map(|(id, &logit)| weigh.candidate(id, logit)));
    }
    true
}

/// The `count` likeliest tokens of those not below `weigh.floor`, in no particular order. Looks at
/// each logit once: what is not above the least of the best so far is passed over.
pub(super) fn likeliest(logits: &[f32], weigh: Weigh, count: usize, found: &mut Vec<Candidate>) {
    found.clear();
    if count == 0 {
        return;
    }
    let full = 2 * count + SORT_MAX;
    // Of equals the first stays, so a later one must be above it; at first all may come.
    let mut above = f32::NEG_INFINITY;
    for (index, block) in logits.chunks(SKIP).enumerate() {
        if !block.iter().fold(false, |any, &logit| any | (logit > above)) {
            continue;
        }
        for (id, &logit) in ((index * SKIP) as u32..).zip(block) {
            if logit > above && logit >= weigh.floor {
                found.push(weigh.candidate(id, logit));
            }
        }
        if found.len() >= full {
            keep_likeliest(found, count);
            above = found.iter().fold(f32::INFINITY, |least, one| least.min(one.logit));
        }
    }
    keep_likeliest(found, count);
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

/// The candidate at `left` of the way through the weights; the last that weighs anything where
/// rounding leads beyond all of them.
pub(super) fn draw(candidates: &[Candidate], left: f64) -> Option<u32> {
    let mut left = left;
    let mut last = None;
    for candidate in candidates.iter().filter(|candidate| candidate.weight > 0.0) {
        last = Some(candidate.id);
        let weight = f64::from(candidate.weight);
        if left < weight {
            break;
        }
        left -= weight;
    }
    last
}
