use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::cpu::{Cpu, CpuLevel};

const LEVELS: [CpuLevel; 3] = [CpuLevel::Portable, CpuLevel::Avx2, CpuLevel::Avx512Vnni];

fn pool(threads: usize, level: CpuLevel) -> ComputePool {
    ComputePool::start_on(NonZeroUsize::new(threads).unwrap(), Cpu::at_most(level)).unwrap()
}

/// Numbers in -1.5..1.5 that look random.
fn floats(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 3.0 - 1.5
        })
        .collect()
}

/// One sequence whose tokens are all written: its blocks run backwards through the pool, the
/// rest of which holds the greatest numbers there are, from another time.
struct Sequence {
    kv: KvPool,
    blocks: Vec<u32>,
    q: Vec<f32>,
    shape: AttentionShape,
    tokens: usize,
}

fn sequence(shape: AttentionShape, tokens: usize, seed: u32) -> Sequence {
    let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
    let count = tokens.div_ceil(KV_BLOCK_TOKENS);
    let blocks: Vec<u32> = (0..count as u32).rev().collect();
    let mut kv = KvPool::new(KvLayout { layers: 2, kv_heads, head_dim, blocks: count }).unwrap();
    let slot = |t: usize| KvSlot { block: blocks[t / 16], slot: t % 16 };
    let all: Vec<KvSlot> = (0..count * 16).map(slot).collect();
    let stale = vec![f32::MAX; all.len() * kv_heads * head_dim];
    kv.write(1, &all, &stale, &stale).unwrap();
    let width = tokens * kv_heads * head_dim;
    kv.write(1, &all[..tokens], &floats(seed, width), &floats(seed + 1, width)).unwrap();
    let q = floats(seed + 2, tokens * shape.heads * head_dim);
    Sequence { kv, blocks, q, shape, tokens }
}

impl Sequence {
    /// The output of rows `from..to`, asked for in spans of `step` rows.
    fn attend(&self, pool: &ComputePool, from: usize, to: usize, step: usize) -> Vec<f32> {
        let width = self.shape.heads * self.shape.head_dim;
        let mut out = vec![f32::NAN; (to - from) * width];
        for start in (from..to).step_by(step) {
            let rows = step.min(to - start);
            let span = AttentionSpan { rows: 0..rows, position: start, blocks: &self.blocks };
            let q = &self.q[start * width..][..rows * width];
            let out = &mut out[(start - from) * width..][..rows * width];
            let layer = self.kv.layer(1).unwrap();
            attention(pool, &self.shape, q, layer, &[span], out).unwrap();
        }
        out
    }

    fn reference(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.q.len()];
        let span = AttentionSpan { rows: 0..self.tokens, position: 0, blocks: &self.blocks };
        let layer = self.kv.layer(1).unwrap();
        let pool = pool(1, CpuLevel::Portable);
        reference::attention(&pool, &self.shape, &self.q, layer, &[span], &mut out);
        out
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { heads, kv_heads, head_dim, scale, window: None, softcap: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_level_agrees_with_the_reference(
        kv_heads in 1usize..4, group in 1usize..9, dim in 1usize..9, tokens in 1usize..300,
        window in proptest::option::of(1usize..200), softcap in proptest::option::of(1f32..20.0),
        seed in 0u32..1 << 20,
    ) {
        let shape = shape(group * kv_heads, kv_heads, dim * 16);
        let shape = AttentionShape { window, softcap, ..shape };
        let sequence = sequence(shape, tokens, seed);
        let expected = sequence.reference();
        for level in LEVELS {
            let found = sequence.attend(&pool(1, level), 0, tokens, tokens);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // A score is a sum of up to 128 products of size 1, times 128^-1/2: roundings in
                // a random walk are 128^1/2 * 2^-24 * 128^1/2 of it, 1e-5; twice that moves a
                // weight, and values are at most 1.5. Soft caps add 2^-23 * cap, twice.
                let near = (found - expected).abs() <= 1e-4;
                prop_assert!(near, "{level:?} {i}: {found} {expected}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_however_its_sequence_is_cut() {
    for (heads, kv_heads, dim, window) in [(9, 3, 64, None), (7, 1, 32, Some(50)), (2, 2, 80, None)]
    {
        let sequence = sequence(AttentionShape { window, ..shape(heads, kv_heads, dim) }, 291, 5);
        for level in LEVELS {
            let (one, two) = (pool(1, level), pool(2, level));
            let whole = sequence.attend(&two, 0, 291, 291);
            assert!(whole.iter().all(|x| x.is_finite()));
            for step in [1, 5, 16, 130] {
                let cut = sequence.attend(&two, 0, 291, step);
                assert!(whole == cut, "{level:?} {heads} heads, spans of {step}");
            }
            assert!(whole == sequence.attend(&one, 0, 291, 291), "{level:?}: one thread");
            assert!(whole[290 * heads * dim..] == sequence.attend(&one, 290, 291, 1), "{level:?}");
        }
    }
}

#[test]
fn sequences_of_a_batch_do_not_meet() {
    let pool = pool(2, CpuLevel::Avx512Vnni);
    let sequence = sequence(shape(4, 2, 32), 40, 3);
    let width = 128;
    let spans = [
        AttentionSpan { rows: 0..1, position: 39, blocks: &sequence.blocks },
        AttentionSpan { rows: 1..6, position: 20, blocks: &sequence.blocks },
        AttentionSpan { rows: 7..8, position: 0, blocks: &sequence.blocks[..1] },
    ];
    let positions = [39, 20, 21, 22, 23, 24, 0, 0];
    let q: Vec<f32> =
        positions.iter().flat_map(|&p| sequence.q[p * width..][..width].to_vec()).collect();
    let mut out = vec![7.0; 8 * width];
    let layer = sequence.kv.layer(1).unwrap();
    attention(&pool, &sequence.shape, &q, layer, &spans, &mut out).unwrap();
    let alone = sequence.attend(&pool, 0, 40, 40);
    for (row, position) in positions.iter().enumerate() {
        let expected = &alone[position * width..][..width];
        let found = &out[row * width..][..width];
        assert!(if row == 6 { found.iter().all(|&x| x == 7.0) } else { found == expected });
    }
}

#[test]
fn odd_heads_are_computed_plainly() {
    let sequence = sequence(shape(2, 1, 20), 3, 1);
    let found = sequence.attend(&pool(2, CpuLevel::Avx512Vnni), 0, 3, 3);
    assert_eq!(found, sequence.reference());
}

#[test]
fn a_query_sees_its_own_and_earlier_tokens_only() {
    let pool = pool(1, CpuLevel::Avx512Vnni);
    let layout = KvLayout { layers: 1, kv_heads: 1, head_dim: 16, blocks: 3 };
    let mut kv = KvPool::new(layout).unwrap();
    let slots: Vec<KvSlot> =
        (0..18).map(|t| KvSlot { block: if t < 16 { 2 } else { 0 }, slot: t % 16 }).collect();
    let keys = vec![0.0; 18 * 16];
    let values: Vec<f32> = (0..18).flat_map(|t| [t as f32; 16]).collect();
    kv.write(0, &slots, &keys, &values).unwrap();
    let shape = AttentionShape { scale: 1.0, ..shape(2, 1, 16) };
    let span = AttentionSpan { rows: 0..1, position: 16, blocks: &[2, 0] };
    let (q, mut out) = ([0.0; 32], [0.0; 32]);
    let layer = kv.layer(0).unwrap();
    attention(&pool, &shape, &q, layer, std::slice::from_ref(&span), &mut out).unwrap();
    // The mean of 0..=16 through a reciprocal of 17, rounded once more than the mean itself.
    assert!(out.iter().all(|x| (x - 8.0).abs() < 1e-5), "{out:?}");
    let windowed = AttentionShape { window: Some(3), ..shape };
    attention(&pool, &windowed, &q, layer, &[span], &mut out).unwrap();
    assert!(out.iter().all(|x| (x - 15.0).abs() < 1e-5), "the mean of 14, 15 and 16: {out:?}");
    let short = AttentionSpan { rows: 0..1, position: 16, blocks: &[2] };
    let refused = attention(&pool, &shape, &q, layer, &[short], &mut out).unwrap_err();
    assert_eq!(refused.to_string(), "attention: tokens of a span must be at most 16, not 17");
    assert!(kv.layer(1).is_err());
}

#[test]
fn keys_and_values_too_great_for_half_floats_stay_finite() {
    let mut kv = KvPool::new(KvLayout { layers: 1, kv_heads: 1, head_dim: 20, blocks: 1 }).unwrap();
    let slot = [KvSlot { block: 0, slot: 3 }];
    kv.write(0, &slot, &[1e9; 20], &[-1e9; 20]).unwrap();
    let (keys, values) = kv.layer(0).unwrap().tile(0, 0);
    let greatest = half::f16::MAX.to_bits();
    assert_eq!((keys[3], keys[19 * 16 + 3], keys[4]), (greatest, greatest, 0));
    let lowest = half::f16::MIN.to_bits();
    assert_eq!((values[3 * 20], values[3 * 20 + 19], values[4 * 20]), (lowest, lowest, 0));
    assert!(kv.write(0, &[KvSlot { block: 0, slot: 16 }], &[0.0; 20], &[0.0; 20]).is_err());
    assert!(kv.write(0, &[KvSlot { block: 1, slot: 0 }], &[0.0; 20], &[0.0; 20]).is_err());
}
