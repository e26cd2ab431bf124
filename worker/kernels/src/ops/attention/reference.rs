//! Plain attention in f64: one row and head at a time.

use half::f16;

use super::{AttentionShape, AttentionSpan, KV_BLOCK_TOKENS, KvLayer};
use crate::pool::{ComputePool, SharedSlice};

/// See the op; everything is checked.
pub(super) fn attention(
    pool: &ComputePool,
    shape: &AttentionShape,
    q: &[f32],
    kv: KvLayer<'_>,
    spans: &[AttentionSpan<'_>],
    out: &mut [f32],
) {
    let dim = shape.head_dim;
    let out = SharedSlice::new(out);
    for span in spans {
        pool.run(span.rows.len() * shape.heads, &|task| {
            let (row, head) = (task / shape.heads, task % shape.heads);
            let at = ((span.rows.start + row) * shape.heads + head) * dim;
            // SAFETY: each task writes its own row and head.
            let out = unsafe { out.range(at, dim) };
            let position = span.position + row;
            let query = Query { q: &q[at..at + dim], head, position, blocks: span.blocks };
            one_head(shape, &query, kv, out);
        });
    }
}

struct Query<'a> {
    q: &'a [f32],
    head: usize,
    position: usize,
    blocks: &'a [u32],
}

fn one_head(shape: &AttentionShape, query: &Query<'_>, kv: KvLayer<'_>, out: &mut [f32]) {
    let (dim, position) = (shape.head_dim, query.position);
    let kv_head = query.head / (shape.heads / shape.kv_heads);
    let first = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let float = |bits: u16| f64::from(f16::from_bits(bits).to_f32());
    let tile = |token: usize| kv.tile(query.blocks[token / KV_BLOCK_TOKENS], kv_head);
    let score = |token: usize| {
        let (keys, _) = tile(token);
        let slot = token % KV_BLOCK_TOKENS;
        let key = |i: usize| float(keys[i * KV_BLOCK_TOKENS + slot]);
        let dot: f64 = query.q.iter().enumerate().map(|(i, &q)| f64::from(q) * key(i)).sum();
        let score = dot * f64::from(shape.scale);
        shape.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
    };
    let scores: Vec<f64> = (first..=position).map(score).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    for (i, out) in out.iter_mut().enumerate() {
        let value = |token| float(tile(token).1[token % KV_BLOCK_TOKENS * dim + i]);
        let sum: f64 = (first..=position).zip(&weights).map(|(t, weight)| weight * value(t)).sum();
        *out = (sum / total) as f32;
    }
}
