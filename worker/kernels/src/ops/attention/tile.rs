//! The kernels: a few queries against one chunk of a sequence.
//!
//! A tile is up to 8 queries that share a key-value head: the heads of its group, and rows that
//! follow each other. A chunk is 128 tokens from a fixed absolute position on, so what a query
//! computes for a chunk, and the order in which chunks are merged, depend on nothing but its own
//! sequence. Scores: one fused multiply-add per query, value of a head and 16 tokens; keys are
//! read and converted once for the tile. Values likewise.

use super::{KV_BLOCK_TOKENS, KvLayer};
use crate::simd::Lanes;

/// Tokens of a chunk.
pub(super) const CHUNK_TOKENS: usize = 128;
/// Queries of a tile at most.
pub(super) const TILE_QUERIES_MAX: usize = 8;

/// One query of a tile: its values and what it sees.
#[derive(Clone, Copy)]
pub(super) struct Query {
    /// Its `head_dim` values.
    pub(super) values: *const f32,
    /// The first position it sees.
    pub(super) first: usize,
    /// One past the last position it sees.
    pub(super) end: usize,
}

/// Queries against a chunk of their sequence.
pub(super) struct Chunk<'a> {
    pub(super) kv: KvLayer<'a>,
    /// The sequence's blocks from position 0 on.
    pub(super) blocks: &'a [u32],
    pub(super) kv_head: usize,
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
    /// The chunk's number: its first position over [`CHUNK_TOKENS`].
    pub(super) index: usize,
}

/// What a query knows after some tokens: softmax so far, not divided yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Running {
    /// The greatest score; minus infinity: nothing was seen.
    pub(super) most: f32,
    /// The sum of `e^(score - most)`.
    pub(super) total: f32,
}

impl Running {
    pub(super) const EMPTY: Self = Self { most: f32::NEG_INFINITY, total: 0.0 };
}

/// `e^(score - most)` of each query and token of a chunk.
type Weights = [[f32; CHUNK_TOKENS]; TILE_QUERIES_MAX];

/// Computes what the first `Q` of `queries` see in `chunk`: their sums into `running`, the values
/// weighted with `e^(score - most)` into `sums [Q, head_dim]`.
///
/// # Safety
/// The instruction set of `L` is present; each query has as many values as the head, which is a
/// multiple of 16; the block table covers what the queries see.
#[inline(always)]
pub(super) unsafe fn chunk<L: Lanes, const Q: usize>(
    chunk: &Chunk<'_>,
    queries: &[Query; TILE_QUERIES_MAX],
    running: &mut [Running; TILE_QUERIES_MAX],
    sums: &mut [f32],
) {
    let start = chunk.index * CHUNK_TOKENS;
    let (mut first, mut end) = (CHUNK_TOKENS, 0);
    for query in &queries[..Q] {
        first = first.min(query.first.saturating_sub(start));
        end = end.max(query.end.saturating_sub(start).min(CHUNK_TOKENS));
    }
    if first >= end {
        running[..Q].fill(Running::EMPTY);
        return;
    }
    let mut weights: Weights = [[0.0; CHUNK_TOKENS]; TILE_QUERIES_MAX];
    let head_dim = chunk.kv.layout().head_dim;
    // SAFETY: first < end lie in the chunk and the block table covers them.
    unsafe {
        scores::<L, Q>(chunk, queries, first..end, &mut weights);
        for (q, query) in queries[..Q].iter().enumerate() {
            let seen_first = query.first.saturating_sub(start);
            let seen_end = query.end.saturating_sub(start).min(CHUNK_TOKENS);
            running[q] = softmax::<L>(chunk, &mut weights[q], seen_first..seen_end, first..end);
        }
        let mut at = 0;
        while at < head_dim {
            if head_dim - at >= 2 * L::COUNT {
                weigh::<L, Q, 2>(chunk, &weights, first..end, at, sums);
                at += 2 * L::COUNT;
            } else {
                weigh::<L, Q, 1>(chunk, &weights, first..end, at, sums);
                at += L::COUNT;
            }
        }
    }
}

/// Writes the products of queries and keys of the vectors of tokens that hold `range`.
#[inline(always)]
unsafe fn scores<L: Lanes, const Q: usize>(
    chunk: &Chunk<'_>,
    queries: &[Query; TILE_QUERIES_MAX],
    range: std::ops::Range<usize>,
    weights: &mut Weights,
) {
    let first_block = chunk.index * CHUNK_TOKENS / KV_BLOCK_TOKENS;
    let head_dim = chunk.kv.layout().head_dim;
    let mut token = range.start / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
    // SAFETY: the block exists as the range is covered; vectors stay inside blocks of 16 tokens.
    unsafe {
        while token < range.end {
            let block = first_block + token / KV_BLOCK_TOKENS;
            let keys = chunk.kv.tile(chunk.blocks[block], chunk.kv_head).0.as_ptr();
            let low = keys.add(token % KV_BLOCK_TOKENS);
            // Two vectors of tokens at a time, of this block or of this and the next.
            let next = token + L::COUNT;
            let high = if !next.is_multiple_of(KV_BLOCK_TOKENS) {
                low.add(L::COUNT)
            } else if next < range.end {
                chunk.kv.tile(chunk.blocks[block + 1], chunk.kv_head).0.as_ptr()
            } else {
                low
            };
            let mut sums = [[L::splat(0.0); 2]; Q];
            for i in 0..head_dim {
                let low = L::load_f16(low.add(i * KV_BLOCK_TOKENS));
                let high = L::load_f16(high.add(i * KV_BLOCK_TOKENS));
                for (sums, query) in sums.iter_mut().zip(queries) {
                    let value = L::splat(*query.values.add(i));
                    sums[0] = L::fma(low, value, sums[0]);
                    sums[1] = L::fma(high, value, sums[1]);
                }
            }
            for (sums, weights) in sums.iter().zip(weights.iter_mut()) {
                L::store(weights.as_mut_ptr().add(token), sums[0]);
                if next < CHUNK_TOKENS {
                    L::store(weights.as_mut_ptr().add(next), sums[1]);
                }
            }
            token += 2 * L::COUNT;
        }
    }
}

/// Turns products into weights `e^(score - most)`: those in `seen`, zero for others in `range`.
#[inline(always)]
unsafe fn softmax<L: Lanes>(
    chunk: &Chunk<'_>,
    weights: &mut [f32; CHUNK_TOKENS],
    seen: std::ops::Range<usize>,
    range: std::ops::Range<usize>,
) -> Running {
    let first = range.start / L::COUNT * L::COUNT;
    // SAFETY: vectors start at multiples of their length below 128, a multiple of it.
    unsafe {
        let lowest = L::splat(f32::NEG_INFINITY);
        let mut most = lowest;
        for at in (first..range.end).step_by(L::COUNT) {
            let place = weights.as_mut_ptr().add(at);
            let mut score = L::mul(L::load(place), L::splat(chunk.scale));
            if let Some(cap) = chunk.softcap {
                score = soft_capped::<L>(score, cap);
            }
            score = L::first(seen.end.saturating_sub(at), score, lowest);
            score = L::first(seen.start.saturating_sub(at), lowest, score);
            L::store(place, score);
            most = L::max(score, most);
        }
        let most = L::greatest(most);
        if most == f32::NEG_INFINITY {
            weights[range].fill(0.0);
            return Running::EMPTY;
        }
        let mut total = L::splat(0.0);
        for at in (first..range.end).step_by(L::COUNT) {
            let place = weights.as_mut_ptr().add(at);
            let zero = L::splat(0.0);
            let weight = L::exp(L::sub(L::load(place), L::splat(most)));
            let weight = L::first(seen.end.saturating_sub(at), weight, zero);
            let weight = L::first(seen.start.saturating_sub(at), zero, weight);
            L::store(place, weight);
            total = L::add(total, weight);
        }
        Running { most, total: L::total(total) }
    }
}

/// `cap * tanh(score / cap)`, tanh x being `1 - 2 / (e^2x + 1)`.
#[inline(always)]
unsafe fn soft_capped<L: Lanes>(score: L::Floats, cap: f32) -> L::Floats {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let power = L::exp(L::mul(score, L::splat(2.0 / cap)));
        let one = L::splat(1.0);
        let tanh = L::sub(one, L::div(L::splat(2.0), L::add(power, one)));
        L::mul(tanh, L::splat(cap))
    }
}

/// Writes `V` vectors of the weighted sum of values, from value `at` of the head on.
#[inline(always)]
unsafe fn weigh<L: Lanes, const Q: usize, const V: usize>(
    chunk: &Chunk<'_>,
    weights: &Weights,
    range: std::ops::Range<usize>,
    at: usize,
    sums: &mut [f32],
) {
    let first_block = chunk.index * CHUNK_TOKENS / KV_BLOCK_TOKENS;
    let head_dim = chunk.kv.layout().head_dim;
    // SAFETY: blocks cover the range; `V` vectors from `at` on are inside the head.
    unsafe {
        let mut totals = [[L::splat(0.0); V]; Q];
        let mut token = range.start;
        while token < range.end {
            let block = chunk.blocks[first_block + token / KV_BLOCK_TOKENS];
            let values = chunk.kv.tile(block, chunk.kv_head).1.as_ptr();
            let end = range.end.min((token / KV_BLOCK_TOKENS + 1) * KV_BLOCK_TOKENS);
            while token < end {
                let row = values.add(token % KV_BLOCK_TOKENS * head_dim + at);
                let mut value = [L::splat(0.0); V];
                for (v, value) in value.iter_mut().enumerate() {
                    *value = L::load_f16(row.add(v * L::COUNT));
                }
                for (totals, weights) in totals.iter_mut().zip(weights) {
                    let weight = L::splat(*weights.as_ptr().add(token));
                    for (total, value) in totals.iter_mut().zip(value) {
                        *total = L::fma(weight, value, *total);
                    }
                }
                token += 1;
            }
        }
        for (q, totals) in totals.iter().enumerate() {
            let out = sums[q * head_dim + at..][..V * L::COUNT].as_mut_ptr();
            for (v, &total) in totals.iter().enumerate() {
                L::store(out.add(v * L::COUNT), total);
            }
        }
    }
}

/// Adds what a query saw in one more chunk to what it saw before.
#[inline(always)]
pub(super) unsafe fn merge<L: Lanes>(
    (running, sums): (&mut Running, &mut [f32]),
    (more, more_sums): (Running, &[f32]),
) {
    if more.most == f32::NEG_INFINITY {
        return;
    }
    let most = running.most.max(more.most);
    let (kept, added) = ((running.most - most).exp(), (more.most - most).exp());
    // What was never seen is not there to keep: it may be any old number.
    let empty = running.most == f32::NEG_INFINITY;
    *running = Running { most, total: running.total * kept + more.total * added };
    // SAFETY: a head is whole vectors.
    unsafe {
        for at in (0..sums.len()).step_by(L::COUNT) {
            let place = sums.as_mut_ptr().add(at);
            let before = if empty { L::splat(0.0) } else { L::mul(L::load(place), L::splat(kept)) };
            let more = L::load(more_sums.as_ptr().add(at));
            L::store(place, L::fma(more, L::splat(added), before));
        }
    }
}
