//! The plan of a step: what decides which launches it has, and where its inputs lie.

use naru_kernels::KV_BLOCK_TOKENS;

use crate::engine::{Batch, Span};

/// Keys are counted in powers of two from here on, so that a graph serves a sequence as it grows.
const KEYS_MIN: usize = 256;
/// Sequences are counted in eights above this.
const BUCKET_STEP: usize = 8;
/// A slot of no block.
const NO_SLOT: u32 = u32::MAX;

/// The sizes of a step. Steps of equal sizes have the same launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StepPlan {
    /// Rows of everything, padding among them.
    pub(super) tokens: usize,
    /// Spans of one token.
    pub(super) decodes: usize,
    /// Spans of more.
    pub(super) prefills: usize,
    /// The most tokens of a span.
    pub(super) rows_max: usize,
    /// At least as many as the longest sequence has.
    pub(super) keys_max: usize,
    /// Rows that logits are made of.
    pub(super) logit_rows: usize,
    /// Whether later steps will be just the same.
    pub(super) is_recurring: bool,
}

/// Where each input begins, in words of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) tokens: usize,
    pub(super) positions: usize,
    pub(super) slots: usize,
    pub(super) picks: usize,
    pub(super) decodes: usize,
    pub(super) prefills: usize,
    pub(super) tables: usize,
}

impl StepPlan {
    /// The plan of a checked batch. A batch in which every sequence has one token is padded to a
    /// size that comes again.
    pub(super) fn of(batch: &Batch, sequences_max: usize) -> Self {
        let decodes = batch.spans.iter().filter(|span| span.tokens.len() == 1).count();
        let spans = batch.spans.iter().filter(|span| !span.tokens.is_empty()).count();
        let tokens = batch.tokens.len();
        let rows_max = batch.spans.iter().map(|span| span.tokens.len()).max().unwrap_or(0);
        let ends = batch.spans.iter().map(|span| span.position + span.tokens.len());
        let keys_max = ends.max().unwrap_or(0).max(KEYS_MIN).next_power_of_two();
        let is_recurring = decodes == tokens && batch.logit_rows.len() == tokens;
        let (tokens, decodes, logit_rows) = if is_recurring {
            let padded = bucket(tokens, sequences_max);
            (padded, padded, padded)
        } else {
            (tokens, decodes, batch.logit_rows.len())
        };
        let prefills = if is_recurring { 0 } else { spans - decodes };
        Self { tokens, decodes, prefills, rows_max, keys_max, logit_rows, is_recurring }
    }

    /// What a device may keep the launches by.
    pub(super) fn key(&self) -> Option<u64> {
        let key = (self.tokens as u64) << 32 | self.keys_max as u64;
        self.is_recurring.then_some(key)
    }

    pub(super) fn places(&self) -> Places {
        let sizes = [
            self.tokens,
            self.tokens,
            self.tokens,
            self.logit_rows,
            4 * self.decodes,
            4 * self.prefills,
        ];
        // Each at a multiple of 16 bytes.
        let mut next = 0;
        let starts = sizes.map(|size| {
            let start = next;
            next += usize::next_multiple_of(size, 4);
            start
        });
        let [tokens, positions, slots, picks, decodes, prefills] = starts;
        Places { tokens, positions, slots, picks, decodes, prefills, tables: next }
    }

    /// Writes the inputs of `batch` as `places` has them; tokens are counted from `first_token`,
    /// and those before it end up behind every table.
    pub(super) fn write(&self, batch: &Batch, first_token: usize, words: &mut Vec<u32>) {
        let places = self.places();
        words.clear();
        words.resize(places.tables, 0);
        words[places.slots..][..self.tokens].fill(NO_SLOT);
        for (word, token) in words[places.tokens..].iter_mut().zip(&batch.tokens) {
            *word = token.wrapping_sub(first_token as u32);
        }
        for (pick, row) in words[places.picks..].iter_mut().zip(&batch.logit_rows) {
            *pick = *row as u32;
        }
        let (mut decode, mut prefill) = (places.decodes, places.prefills);
        for span in batch.spans.iter().filter(|span| !span.tokens.is_empty()) {
            let place = if span.tokens.len() == 1 { &mut decode } else { &mut prefill };
            let table = words.len() - places.tables;
            let entry = [span.tokens.start, span.tokens.len(), span.position, table];
            words[*place..][..4].copy_from_slice(&entry.map(|size| size as u32));
            *place += 4;
            words.extend_from_slice(&span.blocks);
            write_rows(span, &places, words);
        }
    }
}

/// Where each token of a span stands, and where its keys and values go.
fn write_rows(span: &Span, places: &Places, words: &mut [u32]) {
    for (row, position) in span.tokens.clone().zip(span.position..) {
        let block = span.blocks[position / KV_BLOCK_TOKENS];
        let slot = block as usize * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS;
        words[places.positions + row] = position as u32;
        words[places.slots + row] = slot as u32;
    }
}

/// Sequences of a step that comes again: few sizes, little padding.
fn bucket(sequences: usize, most: usize) -> usize {
    let padded = if sequences <= BUCKET_STEP {
        sequences.next_power_of_two()
    } else {
        sequences.next_multiple_of(BUCKET_STEP)
    };
    padded.min(most).max(sequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(tokens: std::ops::Range<usize>, position: usize, blocks: &[u32]) -> Span {
        Span { tokens, position, blocks: blocks.to_vec() }
    }

    #[test]
    fn sizes_of_steps_that_come_again_are_few() {
        let check = |sequences, expected| assert_eq!(bucket(sequences, 20), expected);
        check(1, 1);
        check(3, 4);
        check(8, 8);
        check(9, 16);
        check(17, 20);
        check(21, 21);
    }

    #[test]
    fn decoding_is_padded_with_tokens_that_go_nowhere() {
        let batch = Batch {
            tokens: vec![7, 8, 9],
            spans: vec![span(0..1, 16, &[5, 3]), span(1..2, 0, &[4]), span(2..3, 300, &[9; 20])],
            logit_rows: vec![0, 1, 2],
        };
        let plan = StepPlan::of(&batch, 64);
        assert_eq!((plan.tokens, plan.decodes, plan.prefills, plan.logit_rows), (4, 4, 0, 4));
        assert_eq!(plan.keys_max, 512);
        let (places, mut words) = (plan.places(), Vec::new());
        plan.write(&batch, 8, &mut words);
        assert_eq!(words[places.tokens..][..4], [u32::MAX, 0, 1, 0]);
        plan.write(&batch, 0, &mut words);
        assert_eq!(words[places.tokens..][..4], [7, 8, 9, 0]);
        assert_eq!(words[places.positions..][..4], [16, 0, 300, 0]);
        assert_eq!(words[places.slots..][..4], [3 * 16, 4 * 16, 9 * 16 + 12, NO_SLOT]);
        let spans = &words[places.decodes..][..16];
        assert_eq!(spans, [0, 1, 16, 0, 1, 1, 0, 2, 2, 1, 300, 3, 0, 0, 0, 0]);
        assert_eq!(words[places.tables..][..3], [5, 3, 4]);
        let longer = Batch { spans: vec![span(0..1, 400, &[9; 26])], tokens: vec![1], ..batch };
        let longer = Batch { logit_rows: vec![0], ..longer };
        assert_ne!(StepPlan::of(&longer, 64).key(), plan.key(), "another size");
        assert!(plan.key().is_some());
    }

    #[test]
    fn chunks_and_single_tokens_are_told_apart() {
        let batch = Batch {
            tokens: vec![1, 2, 3, 4],
            spans: vec![span(0..3, 15, &[2, 6]), span(3..4, 2, &[7])],
            logit_rows: vec![3],
        };
        let plan = StepPlan::of(&batch, 64);
        assert_eq!((plan.tokens, plan.decodes, plan.prefills), (4, 1, 1));
        assert_eq!((plan.rows_max, plan.key()), (3, None));
        let (places, mut words) = (plan.places(), Vec::new());
        plan.write(&batch, 0, &mut words);
        assert_eq!(words[places.slots..][..4], [2 * 16 + 15, 6 * 16, 6 * 16 + 1, 7 * 16 + 2]);
        assert_eq!(words[places.prefills..][..4], [0, 3, 15, 0]);
        assert_eq!(words[places.decodes..][..4], [3, 1, 2, 2]);
        assert_eq!(words[places.picks], 3);
    }
}
