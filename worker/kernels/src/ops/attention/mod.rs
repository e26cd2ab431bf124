//! Attention over paged keys and values: causal, grouped queries, flash style.

mod cpu;
pub(crate) mod cuda;
mod kv;
mod reference;
#[cfg(test)]
mod tests;
mod tile;

pub use kv::{KV_BLOCK_TOKENS, KvLayer, KvLayout, KvPool, KvSlot};

use std::ops::Range;

use crate::pool::ComputePool;
use crate::shape::{self, ShapeError};

const OP: &str = "attention";
/// Heads of a multiple of this are computed in vectors; others plainly (no model in sight has any).
const HEAD_DIM_STEP: usize = 16;

/// The heads of [`attention`] and what is done to their scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`. Query head `h` reads key-value head `h / (heads /
    /// kv_heads)`.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// What scores are multiplied with, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Only the last so many tokens are seen, the query's own among them; `None`: all.
    pub window: Option<usize>,
    /// Scaled scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// Query rows that follow each other in one sequence.
#[derive(Clone, Debug)]
pub struct AttentionSpan<'a> {
    /// Rows of `q` and `out`.
    pub rows: Range<usize>,
    /// Absolute position of the first of them; it sees positions `0..=position`.
    pub position: usize,
    /// The sequence's blocks from position 0 on, [`KV_BLOCK_TOKENS`] tokens each; keys and values
    /// of the span itself are written before.
    pub blocks: &'a [u32],
}

/// `out [rows, heads, head_dim]` = softmax of the scaled scores of `q [rows, heads, head_dim]`
/// times the values, each row over the positions up to its own. Rows outside the spans stay as they
/// are. A row's result has the same bits however the sequence was cut into spans, whatever else is
/// in the batch and however many threads there are. Errors: a size does not fit, a block table is
/// shorter than its sequence, spans overlap. Source: FlashAttention-2 (2023), PagedAttention (SOSP
/// 2023) s.4.
pub fn attention(
    pool: &ComputePool,
    shape: &AttentionShape,
    q: &[f32],
    kv: KvLayer<'_>,
    spans: &[AttentionSpan<'_>],
    out: &mut [f32],
) -> Result<(), ShapeError> {
    check(shape, q, kv, spans, out)?;
    if shape.head_dim.is_multiple_of(HEAD_DIM_STEP) {
        cpu::attention(pool, shape, q, kv, spans, out);
    } else {
        reference::attention(pool, shape, q, kv, spans, out);
    }
    Ok(())
}

fn check(
    shape: &AttentionShape,
    q: &[f32],
    kv: KvLayer<'_>,
    spans: &[AttentionSpan<'_>],
    out: &[f32],
) -> Result<(), ShapeError> {
    let layout = kv.layout();
    shape::exactly(OP, "key-value heads", layout.kv_heads, shape.kv_heads)?;
    shape::exactly(OP, "head size", layout.head_dim, shape.head_dim)?;
    shape::multiple(OP, "query heads", shape.kv_heads, shape.heads)?;
    let width = shape.heads * shape.head_dim;
    shape::multiple(OP, "queries", width, q.len())?;
    shape::exactly(OP, "output", q.len(), out.len())?;
    let mut end = 0;
    for span in spans {
        shape::at_most(OP, "end of a span's rows", q.len() / width, span.rows.end)?;
        shape::at_most(OP, "end of the span before", span.rows.start, end)?;
        shape::at_most(OP, "start of a span's rows", span.rows.end, span.rows.start)?;
        end = span.rows.end;
        let tokens = span.position.saturating_add(span.rows.len());
        shape::at_most(OP, "tokens of a span", span.blocks.len() * KV_BLOCK_TOKENS, tokens)?;
        for &block in span.blocks {
            shape::at_most(OP, "block", layout.blocks.saturating_sub(1), block as usize)?;
        }
    }
    Ok(())
}
