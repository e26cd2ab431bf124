//! Micro-batches: a step in pieces that follow each other through the stages.
//!
//! ```text
//! stage 0   a b c d
//! stage 1     a b c d        all stages work while there are pieces enough
//! ```
//!
//! A piece is some of the step's tokens in their order. A sequence may be cut: each stage writes
//! the keys and values of its first tokens before it comes to the next, as in two steps.

use std::ops::Range;

use crate::decoder::collective::MESSAGES_MAX;
use crate::engine::{Batch, Span};

/// Pieces for each stage: with so many a stage is idle for less than a fifth of the step, and more
/// would make each of them small.
const PIECES_PER_STAGE: usize = 4;

/// Where each piece of a step of `tokens` tokens ends, when none but the only one is smaller than
/// `tokens_min`.
pub(super) fn ends(tokens: usize, stages: usize, tokens_min: usize) -> Vec<usize> {
    let most = if stages == 1 { 1 } else { (stages * PIECES_PER_STAGE).min(MESSAGES_MAX) };
    let pieces = (tokens / tokens_min.max(1)).clamp(1, most);
    (1..=pieces).map(|piece| tokens * piece / pieces).collect()
}

/// The pieces that end there.
pub(super) fn pieces(batch: &Batch, ends: &[usize]) -> impl Iterator<Item = Batch> {
    let starts = std::iter::once(&0).chain(ends);
    starts.zip(ends).map(|(start, end)| piece(batch, *start..*end))
}

/// The tokens `range` of `batch`, whose rows of logits ascend.
fn piece(batch: &Batch, range: Range<usize>) -> Batch {
    if range == (0..batch.tokens.len()) {
        return batch.clone();
    }
    let rows = &batch.logit_rows;
    let first = rows.partition_point(|row| *row < range.start);
    let last = rows.partition_point(|row| *row < range.end);
    let cut = |span: &Span| {
        let start = span.tokens.start.max(range.start);
        let end = span.tokens.end.min(range.end);
        (start < end).then(|| Span {
            tokens: start - range.start..end - range.start,
            position: span.position + start - span.tokens.start,
            blocks: span.blocks.clone(),
        })
    };
    Batch {
        tokens: batch.tokens[range.clone()].to_vec(),
        spans: batch.spans.iter().filter_map(cut).collect(),
        logit_rows: rows[first..last].iter().map(|row| row - range.start).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_steps_and_single_stages_are_not_cut() {
        assert_eq!(ends(1000, 1, 32), [1000]);
        assert_eq!(ends(63, 2, 32), [63]);
        assert_eq!(ends(0, 2, 32), [0]);
        assert_eq!(ends(5, 2, 0), [1, 2, 3, 4, 5], "at least a token each");
    }

    #[test]
    fn large_steps_are_cut_evenly() {
        assert_eq!(ends(64, 2, 32), [32, 64]);
        assert_eq!(ends(100, 2, 32), [33, 66, 100]);
        assert_eq!(ends(10_000, 2, 32).len(), 8);
        assert_eq!(ends(1_000_000, 1000, 32).len(), MESSAGES_MAX);
    }

    #[test]
    fn pieces_are_the_batch_in_order() {
        let batch = Batch {
            tokens: (10..21).collect(),
            spans: vec![
                Span { tokens: 0..7, position: 30, blocks: vec![4, 5, 6] },
                Span { tokens: 7..8, position: 2, blocks: vec![1] },
                Span { tokens: 8..11, position: 0, blocks: vec![9] },
            ],
            logit_rows: vec![2, 6, 7, 10],
        };
        let found: Vec<Batch> = pieces(&batch, &[4, 8, 11]).collect();
        assert_eq!(found[0].tokens, [10, 11, 12, 13]);
        assert_eq!(found[0].spans, [Span { tokens: 0..4, position: 30, blocks: vec![4, 5, 6] }]);
        assert_eq!(found[0].logit_rows, [2]);
        assert_eq!(
            found[1].spans,
            [
                Span { tokens: 0..3, position: 34, blocks: vec![4, 5, 6] },
                Span { tokens: 3..4, position: 2, blocks: vec![1] },
            ]
        );
        assert_eq!(found[1].logit_rows, [2, 3]);
        assert_eq!(found[2].spans, [Span { tokens: 0..3, position: 0, blocks: vec![9] }]);
        assert_eq!(found[2].logit_rows, [2]);
        assert_eq!(pieces(&batch, &[11]).collect::<Vec<_>>(), [batch]);
    }
}
