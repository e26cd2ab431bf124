//! Tiny random models: tensors under their GGUF names, all blocks a configuration can ask for.

use std::collections::HashMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use naru_kernels::{ComputePool, GateKind, RopePairs};

use crate::config::{
    AttentionConfig, FeedForwardConfig, GGUF, LayerConfig, ModelConfig, Multipliers, NormConfig,
    NormKind, NormPlacement, QkNorm, Rope, RopeScaling,
};
use crate::decoder::load::{self, Source};
use crate::decoder::{Decoder, LoadError, Shard};
use crate::gguf::GgufFile;
use crate::gguf::write::GgufWriter;
use crate::weights::{MappedFile, Tensors};

/// A llama of 4 layers: 4 query heads on 2 key-value heads, sizes that are no powers of two.
pub(crate) fn config() -> ModelConfig {
    let rope = Rope {
        pairs: RopePairs::Halves,
        rotary_dim: 16,
        base: 10_000.0,
        scaling: RopeScaling::None,
    };
    ModelConfig {
        architecture: "tiny".to_owned(),
        vocabulary: 51,
        hidden: 48,
        context_tokens: 64,
        tied_embeddings: false,
        attention: AttentionConfig {
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            scale: 0.25,
            input_bias: false,
            output_bias: false,
            qk_norm: QkNorm::None,
            softcap: None,
        },
        feed_forward: FeedForwardConfig {
            width: 72,
            activation: GateKind::Silu,
            gated: true,
            bias: false,
        },
        norm: NormConfig { kind: NormKind::Rms, placement: NormPlacement::Pre, epsilon: 1e-5 },
        layers: vec![LayerConfig { rope: Some(rope), window: None }; 4],
        multipliers: Multipliers::default(),
        final_softcap: None,
    }
}

/// Asks for something.
pub(crate) type Change = fn(&mut ModelConfig);

/// Blocks that a configuration can ask for, but for norms and ropes.
pub(crate) const BLOCKS: [(&str, Change); 12] = [
    ("llama", |_| ()),
    ("tied embeddings", |c| c.tied_embeddings = true),
    ("biases on queries, keys and values", |c| c.attention.input_bias = true),
    ("biases on outputs and in the feed-forward block", |c| {
        (c.attention.output_bias, c.feed_forward.bias) = (true, true);
    }),
    ("norms of heads", |c| c.attention.qk_norm = QkNorm::PerHead),
    ("every query head its own keys", |c| c.attention.kv_heads = 4),
    ("soft-caps", |c| (c.attention.softcap, c.final_softcap) = (Some(2.0), Some(3.0))),
    ("windows in some layers", |c| {
        (c.layers[0].window, c.layers[2].window) = (Some(5), Some(17));
    }),
    ("multipliers of the stream", |c| {
        (c.multipliers.embedding, c.multipliers.residual) = (3.0, 0.4);
    }),
    ("multipliers of logits and scores", |c| {
        (c.multipliers.logit, c.attention.scale) = (0.7, 0.11);
    }),
    ("an activation without a gate", |c| {
        (c.feed_forward.gated, c.feed_forward.activation) = (false, GateKind::GeluTanh);
    }),
    ("a gated gelu", |c| c.feed_forward.activation = GateKind::GeluTanh),
];

/// A model's tensors: name to shape, outermost first, and values.
pub(crate) type TensorMap = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// All tensors that some configuration of these sizes asks for; more than any one of them reads.
pub(crate) fn tensors(config: &ModelConfig, seed: u64) -> TensorMap {
    let mut noise = Noise(seed);
    let mut map = TensorMap::new();
    let hidden = config.hidden;
    let (heads, kv) = (config.attention.heads, config.attention.kv_heads);
    let (dim, width) = (config.attention.head_dim, config.feed_forward.width);
    let mut add = |name: String, shape: &[usize]| {
        let count = shape.iter().product();
        // Matrices keep the size of what they multiply, so that logits differ; norms are near 1.
        let (scale, shift) = match shape {
            [_, columns] => (1.4 / (*columns as f32).sqrt(), 0.0),
            _ if name.contains("norm.weight") => (0.3, 1.0),
            _ => (0.3, 0.0),
        };
        let values = (0..count).map(|_| noise.normal() * scale + shift).collect();
        map.insert(name, (shape.to_vec(), values));
    };
    add("token_embd.weight".into(), &[config.vocabulary, hidden]);
    add("output.weight".into(), &[config.vocabulary, hidden]);
    for end in ["weight", "bias"] {
        add(format!("output_norm.{end}"), &[hidden]);
    }
    for layer in 0..config.layers.len() {
        for norm in ["attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"] {
            add(format!("blk.{layer}.{norm}.weight"), &[hidden]);
            add(format!("blk.{layer}.{norm}.bias"), &[hidden]);
        }
        for norm in ["attn_q_norm", "attn_k_norm"] {
            add(format!("blk.{layer}.{norm}.weight"), &[dim]);
        }
        let matrices = [
            ("attn_q", heads * dim, hidden),
            ("attn_k", kv * dim, hidden),
            ("attn_v", kv * dim, hidden),
            ("attn_output", hidden, heads * dim),
            ("ffn_gate", width, hidden),
            ("ffn_up", width, hidden),
            ("ffn_down", hidden, width),
        ];
        for (name, rows, columns) in matrices {
            add(format!("blk.{layer}.{name}.weight"), &[rows, columns]);
            add(format!("blk.{layer}.{name}.bias"), &[rows]);
        }
    }
    map
}

/// The tensors in a mapped GGUF file.
pub(crate) fn mapped(map: &TensorMap) -> Tensors {
    let mut writer = GgufWriter::new();
    for (name, (shape, values)) in map {
        writer.floats(name, shape, values);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&writer.bytes()).unwrap();
    let file = Arc::new(MappedFile::open(file.path()).unwrap());
    let infos = GgufFile::parse(file.bytes()).unwrap().tensors().to_vec();
    Tensors::of_gguf(file, &infos)
}

pub(crate) fn pool() -> Arc<ComputePool> {
    Arc::new(ComputePool::start(NonZeroUsize::new(2).unwrap()).unwrap())
}

pub(crate) fn load(
    config: &ModelConfig,
    tensors: &Tensors,
    shard: Shard,
) -> Result<Decoder, LoadError> {
    load::load(&Source { config, names: &GGUF, tensors }, shard, pool(), false, &mut |_| ())
}

/// A stream of numbers from a seed. Source: SplitMix64 (Steele, Lea, Flood 2014).
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) as u32 as f32 / u32::MAX as f32
    }

    /// Nearly normal: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}
