//! The family table: one row for each kind of checkpoint that loads.

use naru_kernels::RopePairs;

use super::names::{self, NameTable};
use super::{ConfigReadError, NormKind, NormPlacement, QkNorm};

/// A kind of checkpoint: its name there, the blocks it is made of, and its tensors' names. What a
/// checkpoint states itself (sizes, rope, windows, epsilon) is not here.
#[derive(Debug)]
pub(crate) struct Family {
    /// `general.architecture` of a GGUF file, `model_type` of a `config.json`.
    pub(crate) name: &'static str,
    /// How its tensors are named in this form of checkpoint.
    pub(crate) names: &'static NameTable,
    /// Which values turn together. GGUF files of llama have the rows of queries and keys in
    /// another order than Hugging Face's, which makes the pairs neighbours.
    pub(crate) pairs: RopePairs,
    pub(crate) norm: NormKind,
    pub(crate) placement: NormPlacement,
    pub(crate) qk_norm: QkNorm,
    pub(crate) input_bias: Bias,
    pub(crate) output_bias: Bias,
    /// Whether `sliding_window` is heeded; other families carry the key without meaning.
    pub(crate) windows: bool,
    pub(crate) multipliers: MultiplierKeys,
}

/// Whether a projection of attention has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    Never,
    Always,
    /// As the checkpoint says: `attention_bias`, or in a GGUF file the tensor itself.
    Stated,
}

/// How a family states factors on its hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MultiplierKeys {
    /// It has none.
    None,
    /// Granite: embedding, residual and attention multipliers; logits are divided.
    Granite,
}

const LLAMA_SHAPED: Family = Family {
    name: "llama",
    names: &names::LLAMA,
    pairs: RopePairs::Halves,
    norm: NormKind::Rms,
    placement: NormPlacement::Pre,
    qk_norm: QkNorm::None,
    input_bias: Bias::Never,
    output_bias: Bias::Never,
    windows: false,
    multipliers: MultiplierKeys::None,
};

const GGUF_SHAPED: Family = Family { names: &names::GGUF, ..LLAMA_SHAPED };

/// Families of GGUF files.
static GGUF_FAMILIES: [Family; 4] = [
    Family {
        pairs: RopePairs::Neighbours,
        input_bias: Bias::Stated,
        output_bias: Bias::Stated,
        ..GGUF_SHAPED
    },
    Family { name: "qwen2", input_bias: Bias::Always, ..GGUF_SHAPED },
    Family { name: "qwen3", qk_norm: QkNorm::PerHead, ..GGUF_SHAPED },
    Family {
        name: "granite",
        pairs: RopePairs::Neighbours,
        multipliers: MultiplierKeys::Granite,
        ..GGUF_SHAPED
    },
];

/// Families of `config.json`.
static JSON_FAMILIES: [Family; 5] = [
    Family { input_bias: Bias::Stated, output_bias: Bias::Stated, ..LLAMA_SHAPED },
    Family { name: "mistral", windows: true, ..LLAMA_SHAPED },
    Family { name: "qwen2", input_bias: Bias::Always, windows: true, ..LLAMA_SHAPED },
    Family {
        name: "qwen3",
        qk_norm: QkNorm::PerHead,
        input_bias: Bias::Stated,
        output_bias: Bias::Stated,
        windows: true,
        ..LLAMA_SHAPED
    },
    Family {
        name: "granite",
        input_bias: Bias::Stated,
        output_bias: Bias::Stated,
        multipliers: MultiplierKeys::Granite,
        ..LLAMA_SHAPED
    },
];

/// The row of a GGUF file's `general.architecture`. Errors: there is none.
pub(super) fn of_gguf(architecture: &str) -> Result<&'static Family, ConfigReadError> {
    find(&GGUF_FAMILIES, architecture)
}

/// The row of a `config.json`'s `model_type`. Errors: there is none.
pub(super) fn of_json(model_type: &str) -> Result<&'static Family, ConfigReadError> {
    find(&JSON_FAMILIES, model_type)
}

fn find(families: &'static [Family], name: &str) -> Result<&'static Family, ConfigReadError> {
    families.iter().find(|family| family.name == name).ok_or_else(|| {
        let known: Vec<&str> = families.iter().map(|family| family.name).collect();
        ConfigReadError::UnknownArchitecture { found: name.to_owned(), known: known.join(", ") }
    })
}
