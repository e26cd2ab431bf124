//! Which bytes of a file are here. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

/// Stretches of bytes, none of which touches another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spans(BTreeMap<u64, u64>);

impl Spans {
    /// Takes `new` in; what is here already may be in it.
    pub(super) fn insert(&mut self, new: Range<u64>) {
        let Range { mut start, mut end } = new;
        if start >= end {
            return;
        }
        let before = self.0.range(..=start).next_back().map(|(&start, &end)| start..end);
        if let Some(before) = before.filter(|before| before.end >= start) {
            start = before.start;
        }
        while let Some((&first, &last)) = self.0.range(start..=end).next() {
            self.0.remove(&first);
            end = end.max(last);
        }
        self.0.insert(start, end);
    }

    /// How many bytes are here.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// How many are here from the first one on, without a gap.
    pub(super) fn prefix(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }

    /// What is missing of the first `total` bytes, in order, in pieces of at most `piece` bytes.
    pub(super) fn missing(&self, total: u64, piece: u64) -> Vec<Range<u64>> {
        let gap_starts = std::iter::once(0).chain(self.0.values().copied());
        let gap_ends = self.0.keys().copied().chain(std::iter::once(total));
        let mut pieces = Vec::new();
        for (start, end) in gap_starts.zip(gap_ends) {
            let mut at = start;
            while at < end.min(total) {
                let next = at.saturating_add(piece).min(end).min(total);
                pieces.push(at..next);
                at = next;
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans(parts: &[(u64, u64)]) -> Spans {
        let mut spans = Spans::default();
        parts.iter().for_each(|&(start, end)| spans.insert(start..end));
        spans
    }

    #[test]
    fn what_is_missing() {
        #[track_caller]
        fn check(fact: &str, parts: &[(u64, u64)], expected: &[(u64, u64)]) {
            let missing = spans(parts).missing(10, 4);
            let missing: Vec<_> = missing.iter().map(|part| (part.start, part.end)).collect();
            assert_eq!(missing, expected, "{fact}");
        }
        check("everything, in pieces", &[], &[(0, 4), (4, 8), (8, 10)]);
        check("the rest", &[(0, 7)], &[(7, 10)]);
        check("a gap", &[(0, 2), (5, 10)], &[(2, 5)]);
        check("both ends", &[(3, 5)], &[(0, 3), (5, 9), (9, 10)]);
        check("nothing", &[(0, 5), (5, 10)], &[]);
        check("nothing of more than all", &[(0, 20)], &[]);
        check("an empty part is none", &[(3, 3)], &[(0, 4), (4, 8), (8, 10)]);
    }

    proptest! {
        #[test]
        fn spans_are_the_set_of_their_bytes(
            parts in prop::collection::vec((0_u64..60, 0_u64..20), 0..12),
            piece in 1_u64..9,
        ) {
            let parts: Vec<_> = parts.into_iter().map(|(at, len)| (at, at + len)).collect();
            let here = |byte: u64| parts.iter().any(|part| (part.0..part.1).contains(&byte));
            let spans = spans(&parts);
            prop_assert_eq!(spans.bytes(), (0..100).filter(|&byte| here(byte)).count() as u64);
            prop_assert_eq!(spans.prefix(), (0..100).take_while(|&byte| here(byte)).count() as u64);
            let missing = spans.missing(100, piece);
            prop_assert!(missing.iter().all(|part| part.end - part.start <= piece));
            let missing: Vec<u64> = missing.into_iter().flatten().collect();
            prop_assert_eq!(missing, (0..100).filter(|&byte| !here(byte)).collect::<Vec<_>>());
        }
    }
}
