pub(crate) mod cuts;
pub(crate) mod ranks;
mod reference;
pub(crate) mod tiny;

use naru_kernels::{KvPool, RopePairs};

use super::{Decoder, LoadError, Shard, SingleRank, StepError};
use crate::config::{ModelConfig, NormKind, NormPlacement, RopeScaling};
use crate::engine::{Batch, Span};
use crate::weights::WeightError;

/// Each product sums at most 72 terms near 1 in f32 (2^-24 each) through 4 layers, which is 1e-4
/// with room; a key or value on the edge between two f16 (2^-11 apart) may round the other way and
/// moves a score by its share, which norms that amplify make more of. That is so with few weights
/// and a fault with most, so the middle of five counts.
const TOLERANCE: f64 = 3e-3;

const TOKENS: [u32; 21] =
    [3, 50, 7, 7, 0, 12, 44, 31, 9, 1, 2, 28, 17, 5, 49, 33, 20, 8, 41, 6, 30];

/// One sequence as one span, logits after every token.
fn whole(tokens: &[u32]) -> Batch {
    span_of(tokens, 0..tokens.len())
}

/// The tokens `range` of a sequence, logits after each.
fn span_of(tokens: &[u32], range: std::ops::Range<usize>) -> Batch {
    let count = range.len();
    Batch {
        tokens: tokens[range.clone()].to_vec(),
        // Not the identity: blocks of a sequence lie anywhere.
        spans: vec![Span { tokens: 0..count, position: range.start, blocks: vec![2, 0, 1] }],
        logit_rows: (0..count).collect(),
    }
}

fn ready(config: &ModelConfig, seed: u64) -> (tiny::TensorMap, Decoder, KvPool) {
    let map = tiny::tensors(config, seed);
    let shard = Shard::whole(config);
    let decoder = tiny::load(config, &tiny::mapped(&map), shard).unwrap();
    let kv = decoder.new_kv_pool(3).unwrap();
    (map, decoder, kv)
}

fn check(what: &str, change: impl Fn(&mut ModelConfig)) {
    let mut config = tiny::config();
    change(&mut config);
    let off_by = |seed| {
        let (map, mut decoder, mut kv) = ready(&config, seed);
        let logits = decoder.forward(&whole(&TOKENS), &mut kv, &mut SingleRank).unwrap();
        let expected = reference::logits(&config, &map, &TOKENS).concat();
        assert_eq!(logits.len(), expected.len());
        let spread = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        assert!(spread > 0.5, "{what}: logits up to {spread} would hide an error");
        let off = logits.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs());
        off.fold(0.0, f64::max)
    };
    let mut off = [3, 4, 5, 6, 7].map(off_by);
    off.sort_by(f64::total_cmp);
    assert!(off[2] < TOLERANCE, "{what}: off by {off:?}");
}

#[test]
fn blocks_equal_their_plain_definitions() {
    for (what, change) in tiny::BLOCKS {
        check(what, change);
    }
}

#[test]
fn norms_stand_where_the_configuration_says() {
    for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
        for placement in [
            NormPlacement::Pre,
            NormPlacement::Post,
            NormPlacement::Sandwich,
            NormPlacement::Parallel,
        ] {
            check(&format!("{kind:?} {placement:?}"), |c| {
                (c.norm.kind, c.norm.placement) = (kind, placement);
            });
        }
    }
}

#[test]
fn ropes_turn_what_the_configuration_says() {
    let check_rope = |what, change: &dyn Fn(&mut crate::config::Rope)| {
        check(what, |c| {
            c.layers.iter_mut().filter_map(|layer| layer.rope.as_mut()).for_each(change);
        });
    };
    check_rope("neighbours", &|rope| rope.pairs = RopePairs::Neighbours);
    check_rope("a part of each head", &|rope| rope.rotary_dim = 6);
    check_rope("linear", &|rope| rope.scaling = RopeScaling::Linear { factor: 4.0 });
    check_rope("given factors", &|rope| {
        rope.scaling = RopeScaling::Factors(vec![1.0, 1.0, 2.0, 2.5, 4.0, 8.0, 8.0, 8.0]);
    });
    check_rope("llama 3", &|rope| {
        rope.scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 32.0,
        };
    });
    check_rope("yarn", &|rope| {
        rope.scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 64.0,
            beta_fast: 8.0,
            beta_slow: 1.0,
            attention_factor: 1.14,
        };
    });
    check("no positions in one layer, another base in the next", |c| {
        c.layers[1].rope = None;
        c.layers[2].rope.as_mut().unwrap().base = 500.0;
    });
}

#[test]
fn a_sequence_cut_into_steps_has_the_same_bits() {
    let mut config = tiny::config();
    config.layers[1].window = Some(6);
    let (_, mut decoder, mut kv) = ready(&config, 3);
    let expected = decoder.forward(&whole(&TOKENS), &mut kv, &mut SingleRank).unwrap().to_vec();
    for cuts in [vec![0, 21], vec![0, 1, 2, 3, 21], vec![0, 16, 17, 20, 21], vec![0, 7, 14, 21]] {
        let mut kv = decoder.new_kv_pool(3).unwrap();
        let mut logits = Vec::new();
        for cut in cuts.windows(2) {
            let batch = span_of(&TOKENS, cut[0]..cut[1]);
            logits.extend_from_slice(decoder.forward(&batch, &mut kv, &mut SingleRank).unwrap());
        }
        assert_eq!(logits, expected, "cut at {cuts:?}");
    }
}

#[test]
fn only_the_rows_asked_for_have_logits() {
    let config = tiny::config();
    let (_, mut decoder, mut kv) = ready(&config, 3);
    let all = decoder.forward(&whole(&TOKENS), &mut kv, &mut SingleRank).unwrap().to_vec();
    for rows in [vec![], vec![20], vec![0, 4]] {
        let batch = Batch { logit_rows: rows.clone(), ..whole(&TOKENS) };
        let logits = decoder.forward(&batch, &mut kv, &mut SingleRank).unwrap();
        let vocabulary = config.vocabulary;
        let expected: Vec<f32> =
            rows.iter().flat_map(|row| all[row * vocabulary..][..vocabulary].to_vec()).collect();
        assert_eq!(logits, expected);
    }
    let none = Batch::default();
    assert!(decoder.forward(&none, &mut kv, &mut SingleRank).unwrap().is_empty());
}

#[test]
fn batches_that_cannot_be_are_refused() {
    let (_, mut decoder, mut kv) = ready(&tiny::config(), 3);
    let mut check = |change: &dyn Fn(&mut Batch), expected: &str| {
        let mut batch = whole(&TOKENS);
        change(&mut batch);
        let error = decoder.forward(&batch, &mut kv, &mut SingleRank).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} does not say {expected:?}");
        assert!(matches!(error, StepError::Token { .. } | StepError::Batch { .. }));
    };
    check(&|b| b.tokens[4] = 51, "token 51 at place 4 of the batch: the vocabulary has 51");
    check(&|b| b.spans[0].blocks.truncate(1), "span 0 ends at position 21 with 1 blocks");
    check(&|b| b.spans[0].blocks[1] = 3, "span 0 names block 3 of 3");
    check(&|b| b.spans[0].position = usize::MAX, "span 0 ends at position");
    check(&|b| b.spans[0].tokens = 1..21, "span 0 has tokens 1..21 after 0");
    check(&|b| b.spans[0].tokens = 0..20, "21 tokens in spans that end at 20");
    check(&|b| b.logit_rows.push(21), "logits of row 21 of 21");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let config = tiny::config();
    let check = |change: &dyn Fn(&mut tiny::TensorMap), expected: &str| {
        let mut map = tiny::tensors(&config, 1);
        change(&mut map);
        let error = tiny::load(&config, &tiny::mapped(&map), Shard::whole(&config)).err().unwrap();
        let LoadError::Weight(source) = error else { panic!("{error}") };
        assert!(matches!(source, WeightError::Missing { .. } | WeightError::Shape { .. }));
        assert_eq!(source.to_string(), expected);
    };
    check(&|map| drop(map.remove("blk.2.ffn_up.weight")), "tensor blk.2.ffn_up.weight is missing");
    check(
        &|map| map.get_mut("blk.0.attn_k.weight").unwrap().0 = vec![48, 32],
        "tensor blk.0.attn_k.weight has shape [48, 32], where the configuration asks for [32, 48]",
    );
    check(&|map| drop(map.remove("output_norm.weight")), "tensor output_norm.weight is missing");
}
