//! Forward: one step of the decoder over a batch of tokens.

use naru_kernels::{
    Activations, AttentionSpan, ComputePool, KV_BLOCK_TOKENS, KvPool, KvSlot, MatrixView,
    ShapeError, embed_row,
};

use super::step::Step;
use super::{Collective, Decoder, StepError, pass};
use crate::engine::{Batch, Span};

/// Below so many values a pass over rows is over before another thread would have woken.
const PARALLEL_VALUES_MIN: usize = 1 << 13;

/// Names the op in an error.
pub(super) fn op(op: &'static str) -> impl Fn(ShapeError) -> StepError {
    move |source| StepError::Op { op, source }
}

pub(super) fn forward<'a>(
    decoder: &'a mut Decoder,
    batch: &Batch,
    kv: &mut KvPool,
    collective: &mut dyn Collective,
) -> Result<&'a [f32], StepError> {
    check(batch, decoder.config.vocabulary, kv.layout().blocks)?;
    let Decoder { config, shard, cut, pool, embedding, layers, head, ropes, scratch } = decoder;
    scratch.logits.clear();
    if batch.tokens.is_empty() {
        return Ok(&scratch.logits);
    }
    scratch.place(batch);
    ropes.fill(&scratch.positions);
    scratch.stream.resize(batch.tokens.len() * config.hidden, 0.0);
    let mut step = Step {
        config,
        pool,
        cut,
        embedding: embedding.as_ref(),
        layers,
        head: head.as_ref(),
        ropes,
        batch,
        spans: spans(batch),
        ranks: shard.parallelism().tensor(),
        kv,
        scratch,
    };
    pass::run(&mut step, shard, collective)?;
    Ok(&scratch.logits)
}

/// Whether `batch` can be computed with `vocabulary` tokens and `held` blocks of keys and values.
pub(super) fn check(batch: &Batch, vocabulary: usize, held: usize) -> Result<(), StepError> {
    check_spans(batch, held)?;
    let unknown = batch.tokens.iter().position(|token| *token as usize >= vocabulary);
    match unknown {
        Some(place) => Err(StepError::Token { token: batch.tokens[place], place, vocabulary }),
        None => Ok(()),
    }
}

/// Whether the parts of `batch` fit together and into `held` blocks of keys and values.
pub(super) fn check_spans(batch: &Batch, held: usize) -> Result<(), StepError> {
    let wrong = |reason: String| Err(StepError::Batch { reason });
    let mut next = 0;
    for (index, span) in batch.spans.iter().enumerate() {
        if span.tokens.start != next || span.tokens.end < next {
            return wrong(format!("span {index} has tokens {:?} after {next}", span.tokens));
        }
        next = span.tokens.end;
        let end = span.position.saturating_add(span.tokens.len());
        if end.div_ceil(KV_BLOCK_TOKENS) > span.blocks.len() {
            let blocks = span.blocks.len();
            return wrong(format!("span {index} ends at position {end} with {blocks} blocks"));
        }
        if let Some(block) = span.blocks.iter().find(|block| **block as usize >= held) {
            return wrong(format!("span {index} names block {block} of {held}"));
        }
    }
    if next != batch.tokens.len() {
        return wrong(format!("{} tokens in spans that end at {next}", batch.tokens.len()));
    }
    if let Some(row) = batch.logit_rows.iter().find(|row| **row >= next) {
        return wrong(format!("logits of row {row} of {next}"));
    }
    match batch.logit_rows.windows(2).find(|rows| rows[0] >= rows[1]) {
        Some(rows) => wrong(format!("logits of row {} after row {}", rows[1], rows[0])),
        None => Ok(()),
    }
}

fn spans(batch: &Batch) -> Vec<AttentionSpan<'_>> {
    let spans = batch.spans.iter();
    spans
        .map(|Span { tokens, position, blocks }| AttentionSpan {
            rows: tokens.clone(),
            position: *position,
            blocks,
        })
        .collect()
}

/// Rows of the batch's tokens, of which `table` has those from `first` on; the others are zero.
pub(super) fn embed(
    table: &MatrixView<'_>,
    first: usize,
    batch: &Batch,
    multiplier: f32,
    pool: &ComputePool,
    out: &mut [f32],
) {
    rows(pool, out, table.columns(), &|row, out| {
        match (batch.tokens[row] as usize).checked_sub(first).filter(|row| *row < table.rows()) {
            Some(row) => embed_row(table, row, out).expect("the row and its length were checked"),
            None => out.fill(0.0),
        }
        scale(out, multiplier);
    });
}

pub(super) fn scale(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Calls `row` with each row of `values`, on all threads when there is enough to do.
pub(super) fn rows(
    pool: &ComputePool,
    values: &mut [f32],
    width: usize,
    row: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    if values.len() >= PARALLEL_VALUES_MIN {
        return pool.run_rows(values, width, row);
    }
    values.chunks_exact_mut(width).enumerate().for_each(|(index, values)| row(index, values));
}

/// Buffers of a step, kept between steps so that a steady state allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    /// Hidden states between blocks, `[tokens, hidden]`.
    pub(super) stream: Vec<f32>,
    /// What a block reads, `[tokens, hidden]`.
    pub(super) normed: Activations,
    /// A block's first projection: queries, keys and values under each other, or gate and up.
    pub(super) projected: Vec<f32>,
    /// `[tokens, heads, head_dim]`.
    pub(super) queries: Vec<f32>,
    /// `[tokens, kv_heads, head_dim]`.
    pub(super) keys: Vec<f32>,
    /// `[tokens, kv_heads, head_dim]`.
    pub(super) values: Vec<f32>,
    /// What attention returns, `[tokens, heads, head_dim]`.
    pub(super) attended: Vec<f32>,
    /// What a block's last projection, or the head, reads.
    pub(super) block_input: Activations,
    /// What this rank has of a block's result, and then its sum over ranks, `[tokens, hidden]`.
    pub(super) part: Vec<f64>,
    /// What a block returns where it is not added to the stream at once, `[tokens, hidden]`.
    pub(super) block: Vec<f32>,
    /// The same, normed and scaled.
    pub(super) block_normed: Vec<f32>,
    positions: Vec<usize>,
    pub(super) slots: Vec<KvSlot>,
    /// `[logit_rows, vocabulary_part]`.
    pub(super) logits: Vec<f32>,
}

impl Scratch {
    /// Where each token of `batch` stands in its sequence, and where its keys and values go.
    fn place(&mut self, batch: &Batch) {
        self.positions.clear();
        self.slots.clear();
        for span in &batch.spans {
            for position in span.position..span.position + span.tokens.len() {
                let block = span.blocks[position / KV_BLOCK_TOKENS];
                self.positions.push(position);
                self.slots.push(KvSlot { block, slot: position % KV_BLOCK_TOKENS });
            }
        }
    }
}
