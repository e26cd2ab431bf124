//! Configuration: which blocks a model is made of, as data that the decoder reads.
//!
//! ```text
//! GGUF metadata ─┐                 ┌ sizes, norms, attention, rope and window per layer, factors
//!                ├ family ─ config ┤
//! config.json  ──┘                 └ names of the tensors that play each role
//! ```
//!
//! A *family* is a row of a table: what its checkpoints are called, which blocks it uses, and what
//! its tensors are named. The next family is a new row; a block that the decoder does not compute
//! is refused by name at load.

mod family;
mod gguf;
mod json;
mod names;
mod rope;

use thiserror::Error;

pub(crate) use family::Family;
pub(crate) use gguf::read_gguf;
pub(crate) use json::read_json;
#[cfg(test)]
pub(crate) use names::GGUF;
pub(crate) use names::{LayerRole, ModelRole, NameTable};
pub use rope::{Rope, RopeScaling};

use crate::gguf::GgufError;
use naru_kernels::GateKind;

/// A model as the decoder needs to know it. Sizes are of the whole model, whatever part a shard
/// loads.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The architecture's name as the checkpoint states it.
    pub architecture: String,
    /// Rows of the embedding table and of the output head; may exceed the tokenizer's vocabulary.
    pub vocabulary: usize,
    /// Values of a token between layers.
    pub hidden: usize,
    /// The most tokens of a sequence that the model was trained for.
    pub context_tokens: usize,
    /// Whether the output head is the embedding table.
    pub tied_embeddings: bool,
    /// Attention, the same in all layers but for what `layers` says.
    pub attention: AttentionConfig,
    /// The feed-forward block.
    pub feed_forward: FeedForwardConfig,
    /// Norms.
    pub norm: NormConfig,
    /// What differs from layer to layer; one entry each.
    pub layers: Vec<LayerConfig>,
    /// What scales the stream of hidden states and the logits.
    pub multipliers: Multipliers,
    /// Logits become `cap * tanh(logit / cap)`.
    pub final_softcap: Option<f32>,
}

/// Grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Whether the projections to queries, keys and values have a bias.
    pub input_bias: bool,
    /// Whether the projection of the heads' output has a bias.
    pub output_bias: bool,
    /// The norm of queries and keys before rope.
    pub qk_norm: QkNorm,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// What queries and keys are normed over before rope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// They are not.
    None,
    /// Each head by itself, with one weight of `head_dim` values (Qwen 3, EXAONE 4, Gemma 3).
    PerHead,
}

/// The feed-forward block.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForwardConfig {
    /// Values between its two projections.
    pub width: usize,
    /// The activation.
    pub activation: GateKind,
    /// Whether the activation gates a second projection (`down(act(gate x) * up x)`), or there is
    /// none (`down(act(up x))`).
    pub gated: bool,
    /// Whether its projections have biases.
    pub bias: bool,
}

/// Norms of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormConfig {
    /// How they are computed.
    pub kind: NormKind,
    /// Where they stand.
    pub placement: NormPlacement,
    /// What is added to the mean square.
    pub epsilon: f32,
}

/// How a norm is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, times the weight.
    Rms,
    /// Root mean square, times one plus the weight (Gemma's checkpoints).
    RmsPlusOne,
    /// Mean and variance, times the weight, plus a bias.
    Layer,
}

/// Where the norms of a layer stand: `f` is attention, then feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// `x + f(norm(x))`.
    Pre,
    /// `x + norm(f(x))` (OLMo 2, EXAONE 4).
    Post,
    /// `x + norm(f(norm(x)))`, with two norms for each `f` (Gemma 2; also called Peri-LN).
    Sandwich,
    /// `x + attention(norm(x)) + feed_forward(norm(x))`, with one norm for both (GPT-J).
    Parallel,
}

/// What differs from layer to layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// The rotation of queries and keys; `None`: positions are not told.
    pub rope: Option<Rope>,
    /// Only the last so many tokens are seen, the query's own among them; `None`: all.
    pub window: Option<usize>,
}

/// Factors on hidden states and logits; 1 where a family has none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// On rows of the embedding table.
    pub embedding: f32,
    /// On what a block adds to the stream.
    pub residual: f32,
    /// On logits, before their soft-cap.
    pub logit: f32,
}

impl Default for Multipliers {
    fn default() -> Self {
        Self { embedding: 1.0, residual: 1.0, logit: 1.0 }
    }
}

/// Layers of one model; a thousand has been published as a stunt.
const LAYERS_MAX: usize = 4096;
/// Any one size; products of three stay far inside 64 bits.
const SIZE_MAX: usize = 1 << 21;

/// `layers`, when a model can have so many.
fn check_layers(layers: usize, key: &str) -> Result<usize, ConfigReadError> {
    if (1..=LAYERS_MAX).contains(&layers) {
        return Ok(layers);
    }
    let (key, found) = (key.to_owned(), layers.to_string());
    Err(ConfigReadError::Value { key, found, expected: "1 to 4096 is needed" })
}

impl ModelConfig {
    /// Whether the sizes make sense together. Errors: the first that does not, by its name here.
    fn check(&self) -> Result<(), ConfigReadError> {
        let wrong = |key: &str, found: String, expected| {
            Err(ConfigReadError::Value { key: key.to_owned(), found, expected })
        };
        let attention = &self.attention;
        let sizes = [
            ("vocabulary size", self.vocabulary),
            ("hidden size", self.hidden),
            ("context length", self.context_tokens.min(SIZE_MAX)),
            ("attention heads", attention.heads),
            ("key-value heads", attention.kv_heads),
            ("head size", attention.head_dim),
            ("feed-forward width", self.feed_forward.width),
        ];
        for (key, size) in sizes {
            if !(1..=SIZE_MAX).contains(&size) {
                return wrong(key, size.to_string(), "1 to 2097152 is needed");
            }
        }
        if !attention.heads.is_multiple_of(attention.kv_heads) {
            let found = format!("{} for {} query heads", attention.kv_heads, attention.heads);
            return wrong("key-value heads", found, "a divisor of the query heads is needed");
        }
        let epsilon = self.norm.epsilon;
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return wrong("norm epsilon", epsilon.to_string(), "a small number is needed");
        }
        let multipliers = [
            ("attention scale", attention.scale),
            ("embedding multiplier", self.multipliers.embedding),
            ("residual multiplier", self.multipliers.residual),
            ("logit multiplier", self.multipliers.logit),
        ];
        for (key, factor) in multipliers {
            if !factor.is_finite() {
                return wrong(key, factor.to_string(), "a finite number is needed");
            }
        }
        self.layers
            .iter()
            .filter_map(|layer| layer.rope.as_ref())
            .try_for_each(|rope| rope.check(attention.head_dim))
    }
}

/// A model that its configuration does not describe well enough, or that asks for a block that is
/// not computed here.
#[derive(Debug, Error)]
pub enum ConfigReadError {
    /// The architecture is in no row of the family table.
    #[error("architecture {found:?} is not supported; these are: {known}")]
    UnknownArchitecture {
        /// The name in the checkpoint.
        found: String,
        /// All names of the table.
        known: String,
    },
    /// A block that this decoder does not compute.
    #[error("{architecture}: {block} is not supported ({key})")]
    UnsupportedBlock {
        /// The model's architecture.
        architecture: String,
        /// The block asked for.
        block: String,
        /// The key that asks for it.
        key: String,
    },
    /// A key that is missing.
    #[error("configuration key {key} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key with a value that cannot be.
    #[error("configuration key {key} is {found}: {expected}")]
    Value {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The GGUF file's metadata.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}
