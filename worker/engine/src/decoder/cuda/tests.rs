//! The decoder on the host shim against the decoder on the processor, over every block that a
//! configuration can ask for.

mod ranks;
mod sampling;
#[allow(missing_docs, unsafe_code, unreachable_pub, dead_code)]
#[path = "../../../../kernels/tests/agreement/shim.rs"]
mod shim;

use naru_kernels::RopePairs;
use naru_kernels::cuda::Element;

use super::*;
use crate::config::{ModelConfig, NormKind, NormPlacement};
use crate::decoder::tests::tiny;
use crate::decoder::{LocalDecoder, Shard};
use crate::engine::Span;

const TOKENS: [u32; 21] =
    [3, 50, 7, 7, 0, 12, 44, 31, 9, 1, 2, 28, 17, 5, 49, 33, 20, 8, 41, 6, 30];
const BLOCKS: [u32; 3] = [2, 0, 1];

/// A layer rounds its activations to the element about eight times; the errors of four layers add
/// up like a random walk, sqrt(32), and each may be doubled by what follows it.
const GROWTH: f64 = 12.0;

/// The tokens `range` of a sequence, logits after each.
fn chunk(range: std::ops::Range<usize>) -> Batch {
    let count = range.len();
    Batch {
        tokens: TOKENS[range.clone()].to_vec(),
        spans: vec![Span { tokens: 0..count, position: range.start, blocks: BLOCKS.to_vec() }],
        logit_rows: (0..count).collect(),
    }
}

fn on_the_shim(config: &ModelConfig, element: Element) -> CudaDecoder {
    on_the_shim_with(config, element, 3, 32)
}

fn on_the_shim_with(
    config: &ModelConfig,
    element: Element,
    blocks: usize,
    max_sequences: usize,
) -> CudaDecoder {
    let device = Box::new(shim::Shim::start().unwrap());
    let limits =
        CudaLimits { element, max_batch_tokens: 32, max_sequences, max_context_tokens: 64 };
    let tensors = tiny::mapped(&tiny::tensors(config, 7));
    let source = Source { config, names: &crate::config::GGUF, tensors: &tensors };
    let model = CudaModel::of_source(
        &source,
        Shard::whole(config),
        device,
        &tiny::pool(),
        limits,
        &mut |_| (),
    );
    model.unwrap().with_kv_blocks(blocks).unwrap()
}

fn on_the_processor(config: &ModelConfig) -> LocalDecoder {
    let tensors = tiny::mapped(&tiny::tensors(config, 7));
    LocalDecoder::new(tiny::load(config, &tensors, Shard::whole(config)).unwrap(), 3).unwrap()
}

/// What a decoder says after each token: 13 of them in two chunks, then one at a time.
fn logits(decoder: &mut dyn Forward) -> Vec<f32> {
    let steps = [0..10, 10..13, 13..14, 14..15, 15..16, 16..17];
    let mut all = Vec::new();
    for step in steps {
        all.extend_from_slice(decoder.forward(&chunk(step)).unwrap());
    }
    all
}

fn check(what: &str, change: impl Fn(&mut ModelConfig)) {
    check_in(Element::F16, GROWTH, what, change);
}

/// How far apart two lots of logits are, as part of their size.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let (mut wrong, mut size) = (0.0, 0.0);
    for (found, expected) in found.iter().zip(expected) {
        wrong += f64::from(found - expected).powi(2);
        size += f64::from(*expected).powi(2);
    }
    (wrong / size).sqrt()
}

/// Whether both agree to `growth` roundings to `element`.
fn check_in(element: Element, growth: f64, what: &str, change: impl Fn(&mut ModelConfig)) {
    let mut config = tiny::config();
    change(&mut config);
    let expected = logits(&mut on_the_processor(&config));
    let found = logits(&mut on_the_shim(&config, element));
    let relative = relative(&found, &expected);
    let bound = growth * element.epsilon();
    assert!(relative < bound, "{what} in {}: off by {relative} of {bound}", element.name());
}

#[test]
fn a_device_computes_what_the_processor_does() {
    for (what, change) in tiny::BLOCKS {
        check(what, change);
    }
    check_in(Element::Bf16, GROWTH, "llama", |_| ());
}

#[test]
fn a_device_has_every_norm_and_rope() {
    check("norms after", |c| c.norm.placement = NormPlacement::Post);
    // Norms by one plus a weight near one double what they norm, eight times on the way.
    check_in(Element::F16, 4.0 * GROWTH, "norms on both sides", |c| {
        (c.norm.placement, c.norm.kind) = (NormPlacement::Sandwich, NormKind::RmsPlusOne);
    });
    check("blocks side by side", |c| {
        (c.norm.placement, c.norm.kind) = (NormPlacement::Parallel, NormKind::Layer);
    });
    check("neighbours turn", |c| {
        for layer in &mut c.layers {
            layer.rope.as_mut().unwrap().pairs = RopePairs::Neighbours;
        }
    });
    check("part of a head turns, and one layer not at all", |c| {
        for layer in &mut c.layers {
            layer.rope.as_mut().unwrap().rotary_dim = 8;
        }
        c.layers[1].rope = None;
    });
}

#[test]
fn sequences_of_one_step_do_not_meet() {
    let config = tiny::config();
    let mut decoder = on_the_shim(&config, Element::Bf16);
    let alone = logits(&mut decoder)[..].to_vec();
    // The same sequence in a chunk, a single token of another, and a third.
    let span = |tokens, position, block| Span { tokens, position, blocks: vec![block] };
    let mut batch = Batch {
        tokens: TOKENS[..10].to_vec(),
        spans: vec![span(0..10, 0, 1), span(10..11, 0, 2), span(11..13, 0, 0)],
        logit_rows: vec![9, 12],
    };
    batch.tokens.extend([44, 9, 9]);
    let mixed = decoder.forward(&batch).unwrap();
    let expected = &alone[9 * config.vocabulary..][..config.vocabulary];
    let near = mixed.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.1);
    assert!(near, "{:?} {expected:?}", &mixed[..8]);
}

#[test]
fn a_device_that_is_too_small_says_for_what() {
    let config = tiny::config();
    let tensors = tiny::mapped(&tiny::tensors(&config, 7));
    let source = Source { config: &config, names: &crate::config::GGUF, tensors: &tensors };
    let limits = CudaLimits {
        element: Element::Bf16,
        max_batch_tokens: 32,
        max_sequences: 32,
        max_context_tokens: 64,
    };
    let load = |bytes| {
        let device = Box::new(shim::Shim::start().unwrap().with_memory(bytes));
        let whole = Shard::whole(&config);
        CudaModel::of_source(&source, whole, device, &tiny::pool(), limits, &mut |_| ())
    };
    let mut of_weights = String::new();
    let refused = load(20_000).err().unwrap();
    let mut next: Option<&dyn Error> = Some(&refused);
    while let Some(error) = next {
        of_weights += &format!("{error}: ");
        next = error.source();
    }
    assert!(of_weights.contains("putting tensor blk.0.attn_"), "{of_weights}");
    assert!(of_weights.contains("no memory on the GPU for"), "{of_weights}");
    let model = load(4 << 20).unwrap();
    let free = model.free_bytes().unwrap();
    let blocks = free / model.kv_bytes_per_block();
    let refused = model.with_kv_blocks(blocks + 1).err().unwrap().to_string();
    assert!(refused.ends_with("bytes of keys and values"), "{refused}");
}

#[test]
fn what_a_step_has_no_room_for_is_refused() {
    let mut decoder = on_the_shim(&tiny::config(), Element::Bf16);
    let refused = |decoder: &mut CudaDecoder, batch: &Batch| {
        decoder.forward(batch).map(<[f32]>::len).unwrap_err().to_string()
    };
    let unknown = Batch { tokens: vec![51], ..chunk(0..1) };
    assert_eq!(
        refused(&mut decoder, &unknown),
        "token 51 at place 0 of the batch: the vocabulary has 51"
    );
    let blocks = vec![0, 1, 2];
    let spans = vec![Span { tokens: 0..33, position: 0, blocks }];
    let many = Batch { tokens: vec![0; 33], spans, logit_rows: vec![] };
    assert_eq!(refused(&mut decoder, &many), "the batch cannot be: 33 tokens, where 32 are room");
}
