use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Which pairs of symbols merge, how early, and into what.
pub(super) struct Merges {
    /// Open addressing, two thirds full at most.
    slots: Vec<Slot>,
    /// The hash's upper bits choose the slot.
    shift: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    left: u32,
    right: u32,
    rank: u32,
    merged: u32,
}

/// A pair that may merge: the lower rank first. Rank above, merged symbol below, so that one
/// comparison orders and nothing more need be looked up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(u64);

impl Candidate {
    const NONE: Self = Self(u64::MAX);

    fn rank(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn merged(self) -> u32 {
        self.0 as u32
    }
}

/// No symbol has this number: it marks an empty slot and the ends of a list.
const NONE: u32 = u32::MAX;

/// Up to this many symbols are merged by looking over all of them each time; more by a heap, whose
/// time grows as n log n.
const SCANNED_SYMBOLS_MAX: usize = 48;

impl Merges {
    /// Room for `pairs` pairs.
    pub(super) fn with_capacity(pairs: usize) -> Self {
        let slots = (pairs + pairs / 2 + 1).next_power_of_two().max(2);
        let empty = Slot { left: NONE, right: NONE, rank: NONE, merged: NONE };
        Self { slots: vec![empty; slots], shift: 64 - slots.trailing_zeros() }
    }

    /// Adds a pair; of equal pairs the first stays.
    pub(super) fn insert(&mut self, left: u32, right: u32, rank: u32, merged: u32) {
        let slot = self.slot(left, right);
        if self.slots[slot].merged == NONE {
            self.slots[slot] = Slot { left, right, rank, merged };
        }
    }

    fn candidate(&self, left: u32, right: u32) -> Candidate {
        let Slot { rank, merged, .. } = self.slots[self.slot(left, right)];
        if merged == NONE {
            return Candidate::NONE;
        }
        Candidate((u64::from(rank) << 32) | u64::from(merged))
    }

    /// The slot of a pair, or the empty one where it belongs.
    fn slot(&self, left: u32, right: u32) -> usize {
        let key = (u64::from(left) << 32) | u64::from(right);
        let hash = (key ^ (key >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut slot = (hash >> self.shift) as usize;
        loop {
            let Slot { left: l, right: r, merged, .. } = self.slots[slot];
            if merged == NONE || (l, r) == (left, right) {
                return slot;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// Merges `symbols` until no two neighbours merge: always the pair of the lowest rank, of
    /// equal ones the leftmost.
    pub(super) fn apply(&self, symbols: &mut Vec<u32>) {
        if symbols.len() <= SCANNED_SYMBOLS_MAX {
            self.apply_scanning(symbols);
        } else {
            self.apply_with_heap(symbols);
        }
    }

    fn apply_scanning(&self, symbols: &mut Vec<u32>) {
        let mut candidates = [Candidate::NONE; SCANNED_SYMBOLS_MAX];
        let mut pairs = symbols.len().saturating_sub(1);
        for at in 0..pairs {
            candidates[at] = self.candidate(symbols[at], symbols[at + 1]);
        }
        loop {
            let mut best = (Candidate::NONE, 0);
            for (at, &candidate) in candidates[..pairs].iter().enumerate() {
                if candidate < best.0 {
                    best = (candidate, at);
                }
            }
            let (candidate, at) = best;
            if candidate == Candidate::NONE {
                return;
            }
            symbols[at] = candidate.merged();
            symbols.remove(at + 1);
            candidates.copy_within(at + 1..pairs, at);
            pairs -= 1;
            if at < pairs {
                candidates[at] = self.candidate(symbols[at], symbols[at + 1]);
            }
            if at > 0 {
                candidates[at - 1] = self.candidate(symbols[at - 1], symbols[at]);
            }
        }
    }

    fn apply_with_heap(&self, symbols: &mut Vec<u32>) {
        let end = u32::try_from(symbols.len()).expect("a word is shorter than 4 GiB");
        // A doubly linked list over the symbols: merging unlinks the right one.
        let mut next: Vec<u32> = (1..=end).collect();
        let mut previous: Vec<u32> = (0..end).map(|at| at.wrapping_sub(1)).collect();
        // Proposals, as rank above and place of the left symbol below.
        let mut heap = BinaryHeap::with_capacity(symbols.len());
        let propose = |heap: &mut BinaryHeap<_>, symbols: &[u32], left: u32, right: u32| {
            let candidate = self.candidate(symbols[left as usize], symbols[right as usize]);
            if candidate != Candidate::NONE {
                heap.push(Reverse((u64::from(candidate.rank()) << 32) | u64::from(left)));
            }
        };
        for right in 1..end {
            propose(&mut heap, symbols, right - 1, right);
        }
        while let Some(Reverse(proposal)) = heap.pop() {
            let (rank, left) = ((proposal >> 32) as u32, proposal as u32);
            let right = next[left as usize];
            if symbols[left as usize] == NONE || right == end {
                continue;
            }
            // A rank belongs to one pair, so the proposal stands if the pair here now has it.
            let candidate = self.candidate(symbols[left as usize], symbols[right as usize]);
            if candidate == Candidate::NONE || candidate.rank() != rank {
                continue;
            }
            symbols[left as usize] = candidate.merged();
            symbols[right as usize] = NONE;
            let after = next[right as usize];
            next[left as usize] = after;
            if after != end {
                previous[after as usize] = left;
                propose(&mut heap, symbols, left, after);
            }
            if left > 0 {
                propose(&mut heap, symbols, previous[left as usize], left);
            }
        }
        symbols.retain(|&symbol| symbol != NONE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Merges, NONE};

    fn merges(pairs: &[(u32, u32, u32)]) -> Merges {
        let mut merges = Merges::with_capacity(pairs.len());
        for (rank, &(left, right, merged)) in (0..).zip(pairs) {
            merges.insert(left, right, rank, merged);
        }
        merges
    }

    fn check(what: &str, pairs: &[(u32, u32, u32)], symbols: &[u32], merged: &[u32]) {
        let merges = merges(pairs);
        let (mut scanned, mut heaped) = (symbols.to_vec(), symbols.to_vec());
        merges.apply_scanning(&mut scanned);
        assert_eq!(scanned, merged, "{what}");
        if !symbols.is_empty() {
            merges.apply_with_heap(&mut heaped);
            assert_eq!(heaped, merged, "{what}, by heap");
        }
    }

    #[test]
    fn the_lowest_rank_merges_first() {
        check("nothing to merge", &[], &[1, 2], &[1, 2]);
        check("nothing at all", &[(1, 2, 3)], &[], &[]);
        check("one pair", &[(1, 2, 3)], &[1, 2], &[3]);
        check("the leftmost of equals", &[(1, 1, 2)], &[1, 1, 1], &[2, 1]);
        check("the earlier rule", &[(2, 3, 5), (1, 2, 4)], &[1, 2, 3], &[1, 5]);
        check("of two equal rules the first", &[(1, 2, 3), (1, 2, 4)], &[1, 2], &[3]);
        check("what merged merges on", &[(1, 1, 2), (2, 2, 3)], &[1; 8], &[3, 3]);
        check("a later rule makes an earlier pair", &[(3, 4, 5), (1, 2, 3)], &[1, 2, 4], &[5]);
    }

    #[test]
    fn a_long_run_takes_no_quadratic_time() {
        let pairs: Vec<_> = (0..16).map(|n| (n, n, n + 1)).collect();
        let mut symbols = vec![0; (1 << 20) + 3];
        merges(&pairs).apply(&mut symbols);
        assert_eq!(symbols, [&[16; 16][..], &[1, 0]].concat());
    }

    proptest! {
        #[test]
        fn both_ways_agree(
            pairs in proptest::collection::vec((0..12_u32, 0..12_u32, 0..16_u32), 0..40),
            symbols in proptest::collection::vec(0..8_u32, 2..48),
        ) {
            let merges = merges(&pairs);
            let (mut scanned, mut heaped) = (symbols.clone(), symbols);
            merges.apply_scanning(&mut scanned);
            merges.apply_with_heap(&mut heaped);
            prop_assert!(!heaped.contains(&NONE));
            prop_assert_eq!(scanned, heaped);
        }
    }
}
