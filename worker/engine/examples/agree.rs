//! The decoder on a GPU against the decoder on the processor: the same tokens, and every logit of
//! both compared.
//!
//! ```text
//! agree [--model PATH] [--element bf16|f16] [--tokens N | --texts FILE] [--json FILE]
//! ```
//!
//! Without a model one is made up: seeded, so that it is the same on every machine. Without texts
//! (a line of token ids for each) so are the tokens. The processor computes in 32-bit floats.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use std::{env, fs, thread};

use half::bf16;
use naru_engine::{
    Batch, CudaLimits, CudaModel, Decoder, Forward, KV_BLOCK_TOKENS, LocalDecoder, ModelFiles,
    Shard, Span,
};
use naru_kernels::cuda::{Element, Gpu};
use naru_kernels::{ComputePool, argmax, log_sum_exp};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Nats by which the processor must prefer its own token, for another to count as a miss.
const NEAR_TIE_NATS: f64 = 0.1;
/// Of the positions, how many may be misses.
const MISSES_MAX: f64 = 0.01;
/// Of the logits, in roundings to the element: a layer rounds eight times, and the errors of up to
/// 32 layers add up like a random walk.
const GROWTH_MAX: f64 = 16.0;
/// Tokens of a chunk: not whole blocks, so that chunks begin inside of one.
const CHUNK: usize = 100;
/// Tokens at the end that come one at a time.
const SINGLE: usize = 64;

struct Asked {
    model: Option<PathBuf>,
    element: Element,
    tokens: usize,
    texts: Option<PathBuf>,
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let asked = ask()?;
    let made = env::temp_dir().join("naru-made-up-model");
    let path = match &asked.model {
        Some(path) => path.clone(),
        None => {
            make_up(&made)?;
            made
        }
    };
    let files = ModelFiles::open(&path)?;
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let pool = Arc::new(ComputePool::start(threads)?);
    let vocabulary = files.config().vocabulary;
    let texts = texts(&asked, vocabulary)?;
    let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
    let blocks = longest.div_ceil(KV_BLOCK_TOKENS);

    let whole = Shard::whole(files.config());
    let decoder = Decoder::load_in_floats(&files, whole.clone(), Arc::clone(&pool))?;
    let mut on_processor = LocalDecoder::new(decoder, blocks)?;
    let gpu = Gpu::open(0)?;
    println!("{:?}", gpu.description());
    let limits = CudaLimits {
        element: asked.element,
        max_batch_tokens: CHUNK,
        max_sequences: CHUNK,
        max_context_tokens: blocks * KV_BLOCK_TOKENS,
    };
    let begin = Instant::now();
    let model = CudaModel::load(&files, whole, Box::new(gpu), &pool, limits, &mut |_| ())?;
    let load_seconds = begin.elapsed().as_secs_f64();
    let gigabytes = files.weight_bytes() as f64 / 1e9;
    println!("loaded {gigabytes:.3} GB at {:.2} GB/s", gigabytes / load_seconds);
    let mut on_gpu = model.with_kv_blocks(blocks)?;
    let mut found = Found::default();
    let (mut same, mut all) = (0, 0);
    for tokens in &texts {
        let expected = logits(&mut on_processor, tokens, blocks)?;
        let once = logits(&mut on_gpu, tokens, blocks)?;
        // Once more: graphs are replayed, and what a step left behind must not matter.
        let again = logits(&mut on_gpu, tokens, blocks)?;
        same += once.iter().zip(&again).filter(|(a, b)| a == b).count();
        all += once.len();
        found.add(&expected, &once, vocabulary);
    }
    println!("{same} of {all} logits have the same bits a second time");
    println!("{found:?}: {:.4} off, {:.4} nats", found.relative_error(), found.mean_nats());
    if let Some(path) = asked.json {
        let element = asked.element.name();
        let model = asked.model.as_ref().and_then(|path| path.file_name()?.to_str());
        let model = model.unwrap_or("made up");
        let Found { positions, agreed, far_misses, .. } = found;
        let (relative_error, mean_nats) = (found.relative_error(), found.mean_nats());
        let text = format!(
            "{{\"model\": \"{model}\", \"element\": \"{element}\", \"positions\": {positions}, \
             \"agreed\": {agreed}, \"far_misses\": {far_misses}, \
             \"relative_error\": {relative_error:e}, \"mean_nats\": {mean_nats:e}, \
             \"load_gigabytes_per_second\": {:.3}}}\n",
            gigabytes / load_seconds
        );
        fs::write(path, text)?;
    }
    let misses = found.far_misses as f64 / found.positions as f64;
    let growth = found.relative_error() / asked.element.epsilon();
    let is_near = misses <= MISSES_MAX && growth <= GROWTH_MAX;
    let far = format!("{misses:.4} of all are misses, logits are {growth:.1} roundings off");
    if is_near { Ok(()) } else { Err(far.into()) }
}

fn ask() -> Result<Asked> {
    let mut asked =
        Asked { model: None, element: Element::Bf16, tokens: 500, texts: None, json: None };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--model" => asked.model = Some(value.into()),
            "--texts" => asked.texts = Some(value.into()),
            "--json" => asked.json = Some(value.into()),
            "--tokens" => asked.tokens = value.parse()?,
            "--element" if value == "bf16" => asked.element = Element::Bf16,
            "--element" if value == "f16" => asked.element = Element::F16,
            _ => return Err(format!("{word} {value}: see the head of agree.rs").into()),
        }
    }
    Ok(asked)
}

/// Logits after every token: chunks first, then one at a time.
fn logits(decoder: &mut dyn Forward, tokens: &[u32], blocks: usize) -> Result<Vec<f32>> {
    // A sequence's blocks lie anywhere.
    let table: Vec<u32> = (0..blocks as u32).rev().collect();
    let mut all = Vec::new();
    let mut first = 0;
    while first < tokens.len() {
        let in_chunks = tokens.len().saturating_sub(SINGLE);
        let count = if first < in_chunks { CHUNK.min(in_chunks - first) } else { 1 };
        let batch = Batch {
            tokens: tokens[first..first + count].to_vec(),
            spans: vec![Span { tokens: 0..count, position: first, blocks: table.clone() }],
            logit_rows: (0..count).collect(),
        };
        all.extend_from_slice(decoder.forward(&batch)?);
        first += count;
    }
    Ok(all)
}

#[derive(Debug, Default)]
struct Found {
    positions: usize,
    /// Positions whose likeliest token is the same.
    agreed: usize,
    /// Positions where it is not, and the processor was not nearly undecided.
    far_misses: usize,
    /// Of all logits, the sum of squares, and of their differences.
    size: f64,
    wrong: f64,
    /// Differences of the log-probability of the processor's token, summed.
    nats: f64,
}

impl Found {
    fn relative_error(&self) -> f64 {
        (self.wrong / self.size).sqrt()
    }

    fn mean_nats(&self) -> f64 {
        self.nats / self.positions as f64
    }

    fn add(&mut self, expected: &[f32], found: &[f32], vocabulary: usize) {
        for (expected, found) in expected.chunks(vocabulary).zip(found.chunks(vocabulary)) {
            self.positions += 1;
            let (Some(ours), Some(theirs)) = (argmax(found), argmax(expected)) else {
                self.far_misses += 1;
                continue;
            };
            let preference = f64::from(expected[theirs]) - f64::from(expected[ours]);
            self.agreed += usize::from(ours == theirs);
            self.far_misses += usize::from(preference > NEAR_TIE_NATS);
            let of = |row: &[f32]| f64::from(row[theirs]) - f64::from(log_sum_exp(row));
            self.nats += (of(found) - of(expected)).abs();
            for (a, b) in found.iter().zip(expected) {
                self.wrong += f64::from(a - b).powi(2);
                self.size += f64::from(*b).powi(2);
            }
        }
    }
}

/// The sequences of tokens to compute.
fn texts(asked: &Asked, vocabulary: usize) -> Result<Vec<Vec<u32>>> {
    let Some(path) = &asked.texts else {
        let mut random = Random(41);
        let token = |_| (random.bits() % vocabulary as u64) as u32;
        return Ok(vec![(0..asked.tokens).map(token).collect()]);
    };
    let line = |line: &str| line.split_whitespace().map(str::parse).collect::<Result<_, _>>();
    Ok(fs::read_to_string(path)?.lines().map(line).collect::<Result<_, _>>()?)
}

/// A llama of 8 layers with random weights in bf16.
fn make_up(folder: &Path) -> Result<()> {
    const LAYERS: usize = 8;
    const HIDDEN: usize = 1024;
    const KV_WIDTH: usize = 256;
    const WIDTH: usize = 2816;
    const VOCABULARY: usize = 8192;
    fs::create_dir_all(folder)?;
    let config = format!(
        r#"{{"model_type": "llama", "num_hidden_layers": {LAYERS}, "hidden_size": {HIDDEN},
        "intermediate_size": {WIDTH}, "num_attention_heads": 16, "num_key_value_heads": 4,
        "head_dim": 64, "rms_norm_eps": 1e-5, "vocab_size": {VOCABULARY}, "hidden_act": "silu",
        "max_position_embeddings": 4096, "rope_theta": 10000.0, "eos_token_id": 2}}"#
    );
    fs::write(folder.join("config.json"), config)?;
    // Read with the rest, and not used.
    fs::write(folder.join("tokenizer.json"), "{}")?;
    let mut random = Random(7);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        // Matrices keep the size of what they multiply; norms are near 1.
        let (scale, shift) = match shape {
            [_, columns] => (1.4 / (*columns as f64).sqrt(), 0.0),
            _ => (0.3, 1.0),
        };
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|_| (random.normal() * scale + shift) as f32);
        let bytes = values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect();
        tensors.push((name, shape.to_vec(), bytes));
    };
    add("model.embed_tokens.weight".into(), &[VOCABULARY, HIDDEN]);
    add("lm_head.weight".into(), &[VOCABULARY, HIDDEN]);
    add("model.norm.weight".into(), &[HIDDEN]);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        add(name("input_layernorm"), &[HIDDEN]);
        add(name("post_attention_layernorm"), &[HIDDEN]);
        add(name("self_attn.q_proj"), &[HIDDEN, HIDDEN]);
        add(name("self_attn.k_proj"), &[KV_WIDTH, HIDDEN]);
        add(name("self_attn.v_proj"), &[KV_WIDTH, HIDDEN]);
        add(name("self_attn.o_proj"), &[HIDDEN, HIDDEN]);
        add(name("mlp.gate_proj"), &[WIDTH, HIDDEN]);
        add(name("mlp.up_proj"), &[WIDTH, HIDDEN]);
        add(name("mlp.down_proj"), &[HIDDEN, WIDTH]);
    }
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes)?))
        })
        .collect::<Result<_>>()?;
    Ok(safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))?)
}

/// The same numbers on every machine. Source: SplitMix64 (2014).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Nearly normal: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| (self.bits() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0
    }
}
