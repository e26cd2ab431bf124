use std::num::NonZeroUsize;

use super::*;

#[test]
fn a_query_sees_its_own_and_earlier_tokens_only() {
    let pool = ComputePool::start(NonZeroUsize::MIN).unwrap();
    let layout = KvLayout { layers: 1, kv_heads: 1, head_dim: 2, blocks: 3 };
    let mut kv = KvPool::new(layout).unwrap();
    let slots: Vec<KvSlot> =
        (0..18).map(|t| KvSlot { block: if t < 16 { 2 } else { 0 }, slot: t % 16 }).collect();
    let keys = vec![0.0; 36];
    let values: Vec<f32> = (0..18).flat_map(|t| [t as f32, 1.0]).collect();
    kv.write(0, &slots, &keys, &values).unwrap();
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 2,
        scale: 1.0,
        window: None,
        softcap: None,
    };
    let span = AttentionSpan { rows: 0..1, position: 16, blocks: &[2, 0] };
    let mut out = [0.0; 4];
    attention(
        &pool,
        &shape,
        &[0.0; 4],
        kv.layer(0).unwrap(),
        std::slice::from_ref(&span),
        &mut out,
    )
    .unwrap();
    assert_eq!(out, [8.0, 1.0, 8.0, 1.0], "the mean of 0..=16");
    let windowed = AttentionShape { window: Some(3), ..shape };
    attention(&pool, &windowed, &[0.0; 4], kv.layer(0).unwrap(), &[span], &mut out).unwrap();
    assert_eq!(out, [15.0, 1.0, 15.0, 1.0], "the mean of 14, 15 and 16");
    let short = AttentionSpan { rows: 0..1, position: 16, blocks: &[2] };
    let refused =
        attention(&pool, &shape, &[0.0; 4], kv.layer(0).unwrap(), &[short], &mut out).unwrap_err();
    assert_eq!(refused.to_string(), "attention: tokens of a span must be at most 16, not 17");
}
