//! Cuts that blocks of a format stand in the way of, and what a rank reads of the files.

use std::io::Write;
use std::sync::Arc;

use naru_kernels::DType;

use super::ranks::{Replica, local, worst};
use super::{TOKENS, tiny, whole};
use crate::config::{GGUF, ModelConfig};
use crate::decoder::load::{self, Source};
use crate::decoder::{Decoder, LoadProgress, Parallelism, Shard, SingleRank, Splits};
use crate::gguf::GgufFile;
use crate::gguf::write::{GgufWriter, WrittenTensor};
use crate::weights::{MappedFile, Tensors};

/// The number of a format in a GGUF file.
fn number(dtype: DType) -> u32 {
    match dtype {
        DType::Q4_1 => 3,
        DType::Q8_0 => 8,
        DType::Q4_K => 12,
        DType::Q6_K => 14,
        other => panic!("{} is not written", other.name()),
    }
}

/// Blocks of made-up bytes, with scales that make values about as large as those of a model.
/// Layouts are in `ggml-common.h`.
fn blocks(dtype: DType, count: usize) -> Vec<u8> {
    let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
    let mut bytes = Vec::new();
    for block in 0..count {
        let first = bytes.len();
        let noise = |i: usize| ((block * 131 + i) as u32).wrapping_mul(2_654_435_761) >> 24;
        bytes.extend((0..dtype.block_bytes()).map(|i| noise(i) as u8));
        let block = &mut bytes[first..];
        match dtype {
            DType::Q8_0 => block[..2].copy_from_slice(&half(0.002)),
            DType::Q4_1 => block[..4].copy_from_slice(&[half(0.04), half(-0.3)].concat()),
            DType::Q4_K => block[..4].copy_from_slice(&[half(0.0004), half(0.003)].concat()),
            DType::Q6_K => block[208..].copy_from_slice(&half(0.0001)),
            other => panic!("{} is not written", other.name()),
        }
    }
    bytes
}

/// The model of `map` with its last projections in `output` and `down`.
pub(crate) fn mapped(map: &tiny::TensorMap, output: DType, down: DType) -> Tensors {
    let mut writer = GgufWriter::new();
    for (name, (shape, values)) in map {
        let format = match name {
            name if name.ends_with("attn_output.weight") => output,
            name if name.ends_with("ffn_down.weight") => down,
            _ => DType::F32,
        };
        if format == DType::F32 {
            writer.floats(name, shape, values);
            continue;
        }
        writer.tensors.push(WrittenTensor {
            name: name.clone(),
            shape: shape.iter().map(|size| *size as u64).collect(),
            format: number(format),
            bytes: blocks(format, values.len() / format.block_elements()),
        });
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&writer.bytes()).unwrap();
    let file = Arc::new(MappedFile::open(file.path()).unwrap());
    let infos = GgufFile::parse(file.bytes()).unwrap().tensors().to_vec();
    Tensors::of_gguf(file, &infos)
}

/// Heads of one block of 256 columns together, and three such blocks of feed-forward columns.
pub(crate) fn config() -> ModelConfig {
    let mut config = tiny::config();
    (config.attention.head_dim, config.attention.scale) = (64, 0.125);
    config.layers.iter_mut().filter_map(|l| l.rope.as_mut()).for_each(|r| r.rotary_dim = 64);
    config.feed_forward.width = 768;
    config
}

fn check(what: &str, config: &ModelConfig, (output, down): (DType, DType), tensor: usize) {
    let tensors = mapped(&tiny::tensors(config, 9), output, down);
    let source = Source { config, names: &GGUF, tensors: &tensors };
    // Heads that share 32 columns, which one rank rounds by one scale, are rounded by two on two
    // ranks. That is another rounding: it is compared in floats alone, whose sums of all columns
    // are off by some hundred times 2^-24, or more where a key rounds to the neighbouring f16.
    let shares_scale = config.attention.head_dim < 32;
    let kinds: &[bool] = if shares_scale { &[true] } else { &[true, false] };
    for &in_floats in kinds {
        let load =
            |shard| load::load(&source, shard, tiny::pool(), in_floats, &mut |_| ()).unwrap();
        let mut one: Decoder = load(Shard::whole(config));
        let mut kv = one.new_kv_pool(3).unwrap();
        let expected = one.forward(&whole(&TOKENS), &mut kv, &mut SingleRank).unwrap();
        let mut replica = Replica::of(config, (tensor, 1), &|shard| local(load(shard)));
        let found = replica.logits(&whole(&TOKENS));
        assert!(replica.end().iter().all(Result::is_ok));
        let (worst, limit) = (worst(&found, expected), if shares_scale { 3e-3 } else { 0.0 });
        assert!(worst <= limit, "{what}, {tensor} ranks, floats {in_floats}: off by {worst}");
        let spread = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(spread > 1.0, "{what}: logits up to {spread} would hide an error");
    }
}

#[test]
fn heads_may_end_inside_a_block() {
    let (k4, k6) = (DType::Q4_K, DType::Q6_K);
    check("two heads of four in a block of 256", &config(), (k4, k4), 2);
    check("the same in six bits", &config(), (k6, k6), 2);
    let mut wide = config();
    (wide.attention.heads, wide.attention.kv_heads) = (12, 3);
    check("four heads of twelve in three blocks, none shared", &wide, (k4, k6), 3);
    (wide.attention.heads, wide.attention.kv_heads) = (12, 2);
    check("six heads of twelve: the middle block is shared", &wide, (k4, k6), 2);
    let mut narrow = tiny::config();
    narrow.feed_forward.width = 160;
    check("a head of 16 in a block of 32", &narrow, (DType::Q8_0, DType::Q4_1), 4);
    check("the same with an offset", &narrow, (DType::Q4_1, DType::Q8_0), 4);
}

#[test]
fn the_feed_forward_block_is_cut_between_blocks() {
    let config = config();
    let splits = |down| {
        let tensors = mapped(&tiny::tensors(&config, 9), DType::Q8_0, down);
        Source { config: &config, names: &GGUF, tensors: &tensors }.splits()
    };
    let widths = |splits: Splits, ranks| -> Vec<usize> {
        let parallelism = Parallelism::new(ranks, 1).unwrap();
        let width = |rank| {
            let shard = Shard::of(&config, parallelism, rank).unwrap();
            shard.cut(&splits).unwrap().width.len()
        };
        (0..ranks).map(width).collect()
    };
    assert_eq!(widths(splits(DType::Q4_K), 2), [512, 256]);
    assert_eq!(widths(splits(DType::Q8_0), 2), [384, 384]);
    assert_eq!(splits(DType::Q4_K).tensor(), [1, 2], "three blocks are too few for four ranks");
    assert_eq!(splits(DType::Q8_0).tensor(), [1, 2, 4]);
}

/// Bytes that each rank reads.
fn bytes(config: &ModelConfig, tensors: &Tensors, (tensor, pipeline): (usize, usize)) -> Vec<u64> {
    let parallelism = Parallelism::new(tensor, pipeline).unwrap();
    let source = Source { config, names: &GGUF, tensors };
    let of = |rank| {
        let shard = Shard::of(config, parallelism, rank).unwrap();
        let mut last = LoadProgress::default();
        load::load(&source, shard, tiny::pool(), false, &mut |told| last = told).unwrap();
        assert_eq!(last.bytes_done, last.bytes_total);
        last.bytes_total
    };
    (0..parallelism.ranks()).map(of).collect()
}

#[test]
fn ranks_read_everything_once_but_for_norms() {
    let config = tiny::config();
    let tensors = tiny::mapped(&tiny::tensors(&config, 5));
    let whole = bytes(&config, &tensors, (1, 1))[0];
    let norm = config.hidden as u64 * 4;
    let (norms, layers) = (2 * norm, config.layers.len() as u64);
    for pipeline in 1..=4 {
        assert_eq!(bytes(&config, &tensors, (1, pipeline)).iter().sum::<u64>(), whole);
    }
    for pipeline in 1..=2 {
        let of_ranks = bytes(&config, &tensors, (2, pipeline));
        assert_eq!(of_ranks.iter().sum::<u64>(), whole + norms * layers + norm);
        let most = *of_ranks.iter().max().unwrap();
        // 51 rows of the vocabulary are 32 and 19, 72 feed-forward columns 48 and 24.
        assert!(most * (2 * pipeline as u64) < whole * 3 / 2, "{of_ranks:?} of {whole}");
    }
    // A key-value head that two ranks read is read by both.
    let heads = 2 * 2 * layers * (16 * 48 * 4);
    let of_ranks = bytes(&config, &tensors, (4, 1));
    assert_eq!(of_ranks.iter().sum::<u64>(), whole + 3 * (norms * layers + norm) + heads);
}

#[test]
fn a_shared_block_is_read_by_both() {
    let config = config();
    let tensors = mapped(&tiny::tensors(&config, 9), DType::Q4_K, DType::Q4_K);
    let whole = bytes(&config, &tensors, (1, 1))[0];
    let layers = config.layers.len() as u64;
    let norms = (2 * layers + 1) * config.hidden as u64 * 4;
    let outputs = layers * config.hidden as u64 * DType::Q4_K.block_bytes() as u64;
    let of_ranks = bytes(&config, &tensors, (2, 1));
    assert_eq!(of_ranks.iter().sum::<u64>(), whole + norms + outputs);
}
