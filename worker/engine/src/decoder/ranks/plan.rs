//! The plan of a step, as rank 0 tells it to the others: one small message.
//!
//! ```text
//! "np" version kind │ serial │ counts │ spans │ new blocks │ tokens │ logit rows │ ends of pieces
//! ```
//!
//! Everything behind the first four bytes is a little-endian `u32`. A sequence's block table grows
//! by a block every sixteen tokens, and may be thousands long: of a table that is one of the last
//! step's with more behind it only what is new is told, so both sides keep the last step's tables.
//! The serial number tells whether they are the same ones.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;

use naru_kernels::cuda::GroupId;
use thiserror::Error;

use crate::engine::{Batch, Span};

const VERSION: u8 = 1;
const STEP: u8 = 0;
const STOP: u8 = 1;
const GROUPS: u8 = 2;
/// Bytes of a message: 16 Mi words hold a thousand whole tables of sequences of 128 Ki tokens.
const BYTES_MAX: usize = 64 << 20;
/// Blocks of all tables of a step together.
const BLOCKS_MAX: usize = BYTES_MAX / WORD_BYTES;
const WORD_BYTES: usize = 4;
const HEADER_BYTES: usize = 4;
const SPAN_WORDS: usize = 4;

/// What rank 0 tells the other ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Compute this, in pieces of whole tokens that end there.
    Step { batch: Batch, ends: Vec<usize> },
    /// Devices join groups of these names, or none.
    Groups { names: Vec<u8> },
    /// There is nothing more to do.
    Stop,
}

/// A message that is no plan, or a plan that is no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Not the begin of a plan, or of one of another version.
    #[error("a plan begins with {found:?}: another version of naru?")]
    Header {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// Not the plan that follows the last.
    #[error("plan {found} came where {expected} was next")]
    Serial {
        /// The one that came.
        found: u32,
        /// The one that should have.
        expected: u32,
    },
    /// Something in it cannot be.
    #[error("a plan has {what}")]
    Malformed {
        /// What.
        what: &'static str,
    },
    /// More than a message holds.
    #[error("a plan of more than {BYTES_MAX} bytes, or numbers over 32 bits")]
    TooLarge,
}

/// The tables of the last step, of which the next may be continuations.
#[derive(Debug, Default)]
struct LastStep {
    serial: u32,
    tables: Vec<Vec<u32>>,
}

/// Writes plans at rank 0.
#[derive(Debug, Default)]
pub(super) struct PlanWriter {
    last: LastStep,
}

/// Reads plans at another rank.
#[derive(Debug, Default)]
pub(super) struct PlanReader {
    last: LastStep,
}

impl PlanWriter {
    /// Replaces `message` by the plan of a step. Errors: it is too large; the next plan follows the
    /// one before then.
    pub(super) fn step(
        &mut self,
        batch: &Batch,
        ends: &[usize],
        message: &mut Vec<u8>,
    ) -> Result<(), PlanError> {
        let by_last_block: HashMap<u32, usize> = self
            .last
            .tables
            .iter()
            .enumerate()
            .filter_map(|(index, table)| Some((*table.last()?, index)))
            .collect();
        let (mut spans, mut blocks) = (Vec::new(), Vec::new());
        for Span { tokens, position, blocks: table } in &batch.spans {
            let base = self.continued(&by_last_block, table);
            let known = base.map_or(0, |base| self.last.tables[base].len());
            spans.extend([tokens.len(), *position, base.map_or(0, |base| base + 1)]);
            spans.push(table.len() - known);
            blocks.extend(&table[known..]);
        }
        let Batch { tokens, logit_rows, .. } = batch;
        let counts = [batch.spans.len(), blocks.len(), tokens.len(), logit_rows.len(), ends.len()];
        let tables: usize = batch.spans.iter().map(|span| span.blocks.len()).sum();
        let words = 1 + counts.len() + spans.len() + counts[1..].iter().sum::<usize>();
        if words >= BLOCKS_MAX || tables > BLOCKS_MAX {
            return Err(PlanError::TooLarge);
        }
        message.clear();
        message.extend([b'n', b'p', VERSION, STEP]);
        message.extend(self.last.serial.wrapping_add(1).to_le_bytes());
        for number in counts.iter().chain(&spans) {
            let word = u32::try_from(*number).map_err(|_| PlanError::TooLarge)?;
            message.extend(word.to_le_bytes());
        }
        message.extend(blocks.iter().chain(tokens).flat_map(|word| word.to_le_bytes()));
        for number in logit_rows.iter().chain(ends) {
            let word = u32::try_from(*number).map_err(|_| PlanError::TooLarge)?;
            message.extend(word.to_le_bytes());
        }
        self.last.follow(batch);
        Ok(())
    }

    /// The message that names groups. It is told before the first step, and has no serial number.
    pub(super) fn groups(names: &[u8]) -> Vec<u8> {
        [&[b'n', b'p', VERSION, GROUPS], names].concat()
    }

    /// Replaces `message` by the end of all steps.
    pub(super) fn stop(message: &mut Vec<u8>) {
        message.clear();
        message.extend([b'n', b'p', VERSION, STOP]);
    }

    /// The table of the last step that `table` continues. A sequence's last block is its own, so
    /// that block, somewhere near the end of `table`, finds it.
    fn continued(&self, by_last_block: &HashMap<u32, usize>, table: &[u32]) -> Option<usize> {
        let known = |block: &u32| by_last_block.get(block).copied();
        let is_begin = |base: &usize| table.starts_with(&self.last.tables[*base]);
        table.iter().rev().filter_map(known).find(is_begin)
    }
}

impl PlanReader {
    /// The plan in `message`. Errors: it is none, or not the next.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<Plan, PlanError> {
        let (header, body) = message.split_at(HEADER_BYTES.min(message.len()));
        match header {
            [b'n', b'p', VERSION, STOP] if body.is_empty() => return Ok(Plan::Stop),
            [b'n', b'p', VERSION, GROUPS] => {
                malformed(!body.len().is_multiple_of(GroupId::BYTES), "a part of a name")?;
                return Ok(Plan::Groups { names: body.to_vec() });
            }
            [b'n', b'p', VERSION, STEP] => {}
            _ => return Err(PlanError::Header { found: header.to_vec() }),
        }
        if message.len() > BYTES_MAX {
            return Err(PlanError::TooLarge);
        }
        let (words, rest) = body.as_chunks::<WORD_BYTES>();
        malformed(!rest.is_empty(), "a part of a number")?;
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let mut words = Words(&words);
        let (found, expected) = (words.next()?, self.last.serial.wrapping_add(1));
        if found != expected {
            return Err(PlanError::Serial { found, expected });
        }
        let [spans, blocks, tokens, rows, pieces] = words.counts()?;
        let spans = words.take(spans.checked_mul(SPAN_WORDS).ok_or(PlanError::TooLarge)?)?;
        let blocks = words.take(blocks)?;
        let tokens = words.take(tokens)?;
        let logit_rows = numbers(words.take(rows)?);
        let ends = numbers(words.take(pieces)?);
        malformed(!words.0.is_empty(), "numbers behind its end")?;
        let spans = self.spans(spans, blocks)?;
        let count = spans.last().map_or(0, |span| span.tokens.end);
        malformed(count != tokens.len(), "spans that are not its tokens")?;
        let ascend = logit_rows.is_sorted_by(|a, b| a < b);
        let inside = logit_rows.last().is_none_or(|row| *row < count);
        malformed(!ascend || !inside, "rows of logits out of order or of no token")?;
        let covers = ends.last() == Some(&count) && ends.is_sorted();
        malformed(!covers, "pieces that are not the step")?;
        let batch = Batch { tokens: tokens.to_vec(), spans, logit_rows };
        self.last.follow(&batch);
        Ok(Plan::Step { batch, ends })
    }

    fn spans(&self, words: &[u32], mut blocks: &[u32]) -> Result<Vec<Span>, PlanError> {
        let mut spans: Vec<Span> = Vec::new();
        let (mut first, mut held) = (0usize, 0usize);
        for [tokens, position, base, new] in words.as_chunks::<SPAN_WORDS>().0 {
            let known: &[u32] = match base.checked_sub(1) {
                None => &[],
                Some(index) => {
                    let known = self.last.tables.get(index as usize);
                    known.ok_or(PlanError::Malformed { what: "a table that was not told" })?
                }
            };
            let new = blocks.split_off(..*new as usize);
            let new = new.ok_or(PlanError::Malformed { what: "too few blocks" })?;
            held += known.len() + new.len();
            if held > BLOCKS_MAX {
                return Err(PlanError::TooLarge);
            }
            let end = first.saturating_add(*tokens as usize);
            let tokens: Range<usize> = first..end;
            first = end;
            spans.push(Span {
                tokens,
                position: *position as usize,
                blocks: [known, new].concat(),
            });
        }
        malformed(!blocks.is_empty(), "blocks of no span")?;
        Ok(spans)
    }
}

impl LastStep {
    fn follow(&mut self, batch: &Batch) {
        self.serial = self.serial.wrapping_add(1);
        self.tables.clear();
        self.tables.extend(batch.spans.iter().map(|span| span.blocks.clone()));
    }
}

fn malformed(wrong: bool, what: &'static str) -> Result<(), PlanError> {
    if wrong { Err(PlanError::Malformed { what }) } else { Ok(()) }
}

fn numbers(words: &[u32]) -> Vec<usize> {
    words.iter().map(|word| *word as usize).collect()
}

/// The words of a message that are not read yet.
struct Words<'a>(&'a [u32]);

impl<'a> Words<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u32], PlanError> {
        let words = self.0.split_off(..count);
        words.ok_or(PlanError::Malformed { what: "too few numbers" })
    }

    fn next(&mut self) -> Result<u32, PlanError> {
        self.take(1).map(|words| words[0])
    }

    fn counts<const N: usize>(&mut self) -> Result<[usize; N], PlanError> {
        let words = self.take(N)?;
        Ok(std::array::from_fn(|index| words[index] as usize))
    }
}
