//! A model's configuration from the metadata of its GGUF file.

use naru_kernels::GateKind;

use super::family::{self, Bias, Family, MultiplierKeys};
use super::{
    AttentionConfig, ConfigReadError, FeedForwardConfig, LayerConfig, LayerRole, ModelConfig,
    ModelRole, Multipliers, NormConfig, Rope, RopeScaling,
};
use crate::gguf::{GgufError, Metadata};
use crate::weights::Tensors;

/// Frequency factors of llama 3.1 and later, written by the converter.
const ROPE_FACTORS: &str = "rope_freqs.weight";
const ROPE_BASE_DEFAULT: f32 = 10_000.0;

/// Reads the configuration and finds its family. Errors: an unknown architecture, an unsupported
/// block, a key that is missing or cannot be.
pub(crate) fn read_gguf(
    metadata: &Metadata<'_>,
    tensors: &Tensors,
) -> Result<(ModelConfig, &'static Family), ConfigReadError> {
    let architecture = metadata
        .text("general.architecture")?
        .ok_or_else(|| missing("general.architecture".into()))?;
    let family = family::of_gguf(architecture)?;
    let reader = Reader { metadata, tensors, architecture, family };
    let config = reader.read()?;
    config.check()?;
    Ok((config, family))
}

fn missing(key: String) -> ConfigReadError {
    ConfigReadError::Gguf(GgufError::MissingKey { key })
}

struct Reader<'a> {
    metadata: &'a Metadata<'a>,
    tensors: &'a Tensors,
    architecture: &'a str,
    family: &'static Family,
}

impl Reader<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn unsigned(&self, key: &str) -> Result<Option<usize>, ConfigReadError> {
        Ok(self.metadata.unsigned(&self.key(key))?)
    }

    fn size(&self, key: &str) -> Result<usize, ConfigReadError> {
        self.unsigned(key)?.ok_or_else(|| missing(self.key(key)))
    }

    fn float(&self, key: &str) -> Result<Option<f32>, ConfigReadError> {
        Ok(self.metadata.float(&self.key(key))?)
    }

    fn unsupported(&self, block: &str, key: &str) -> ConfigReadError {
        ConfigReadError::UnsupportedBlock {
            architecture: self.architecture.to_owned(),
            block: block.to_owned(),
            key: self.key(key),
        }
    }

    fn read(&self) -> Result<ModelConfig, ConfigReadError> {
        if self.unsigned("expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(self.unsupported("a mixture of experts", "expert_count"));
        }
        let hidden = self.size("embedding_length")?;
        let attention = self.attention(hidden)?;
        let layer =
            LayerConfig { rope: Some(self.rope(attention.head_dim)?), window: self.window()? };
        let layers = super::check_layers(self.size("block_count")?, &self.key("block_count"))?;
        let names = self.family.names;
        let rows = |role| {
            let name = names.of_model(role).map(|name| format!("{name}.weight"));
            name.and_then(|name| self.tensors.shape(&name)).and_then(|shape| shape.first().copied())
        };
        let epsilon_key = "attention.layer_norm_rms_epsilon";
        let epsilon = self.float(epsilon_key)?.ok_or_else(|| missing(self.key(epsilon_key)))?;
        Ok(ModelConfig {
            architecture: self.architecture.to_owned(),
            vocabulary: rows(ModelRole::Embedding).unwrap_or(0),
            hidden,
            context_tokens: self.size("context_length")?,
            tied_embeddings: rows(ModelRole::Output).is_none(),
            attention,
            feed_forward: FeedForwardConfig {
                width: self.size("feed_forward_length")?,
                activation: GateKind::Silu,
                gated: true,
                bias: self.has_bias(LayerRole::Down),
            },
            norm: NormConfig { kind: self.family.norm, placement: self.family.placement, epsilon },
            layers: vec![layer; layers],
            multipliers: self.multipliers()?,
            final_softcap: None,
        })
    }

    fn attention(&self, hidden: usize) -> Result<AttentionConfig, ConfigReadError> {
        let heads = self.size("attention.head_count")?;
        let head_dim = self.unsigned("attention.key_length")?;
        let head_dim = head_dim.unwrap_or(hidden.checked_div(heads).unwrap_or(0));
        if self.unsigned("attention.value_length")?.is_some_and(|size| size != head_dim) {
            let key = "attention.value_length";
            return Err(self.unsupported("values of another size than keys", key));
        }
        let scale = match self.family.multipliers {
            MultiplierKeys::None => None,
            MultiplierKeys::Granite => self.float("attention.scale")?,
        };
        Ok(AttentionConfig {
            heads,
            kv_heads: self.unsigned("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            scale: scale.unwrap_or((head_dim as f32).sqrt().recip()),
            input_bias: self.bias(self.family.input_bias, LayerRole::Query),
            output_bias: self.bias(self.family.output_bias, LayerRole::AttentionOutput),
            qk_norm: self.family.qk_norm,
            softcap: None,
        })
    }

    fn bias(&self, bias: Bias, role: LayerRole) -> bool {
        match bias {
            Bias::Never => false,
            Bias::Always => true,
            Bias::Stated => self.has_bias(role),
        }
    }

    fn has_bias(&self, role: LayerRole) -> bool {
        let name = self.family.names.of_layer(role, 0);
        name.is_some_and(|name| self.tensors.contains(&format!("{name}.bias")))
    }

    fn multipliers(&self) -> Result<Multipliers, ConfigReadError> {
        let one = Multipliers::default();
        Ok(match self.family.multipliers {
            MultiplierKeys::None => one,
            MultiplierKeys::Granite => Multipliers {
                embedding: self.float("embedding_scale")?.unwrap_or(one.embedding),
                residual: self.float("residual_scale")?.unwrap_or(one.residual),
                logit: self.float("logit_scale")?.map_or(one.logit, f32::recip),
            },
        })
    }

    fn window(&self) -> Result<Option<usize>, ConfigReadError> {
        let pattern = "attention.sliding_window_pattern";
        if self.metadata.value(&self.key(pattern)).is_some() {
            return Err(self.unsupported("a pattern of sliding windows", pattern));
        }
        Ok(self.unsigned("attention.sliding_window")?.filter(|&tokens| tokens > 0))
    }

    fn rope(&self, head_dim: usize) -> Result<Rope, ConfigReadError> {
        Ok(Rope {
            pairs: self.family.pairs,
            rotary_dim: self.unsigned("rope.dimension_count")?.unwrap_or(head_dim),
            base: self.float("rope.freq_base")?.unwrap_or(ROPE_BASE_DEFAULT),
            scaling: self.rope_scaling()?,
        })
    }

    fn rope_scaling(&self) -> Result<RopeScaling, ConfigReadError> {
        const TYPE: &str = "rope.scaling.type";
        let kind = self.metadata.text(&self.key(TYPE))?;
        if let Some(shape) = self.tensors.shape(ROPE_FACTORS) {
            if kind.is_some_and(|kind| kind != "none") {
                return Err(self.unsupported("rope scaling beside rope factors", TYPE));
            }
            let factors = self.tensors.vector(ROPE_FACTORS, shape.iter().product());
            return Ok(RopeScaling::Factors(factors.map_err(|error| ConfigReadError::Value {
                key: ROPE_FACTORS.to_owned(),
                found: error.to_string(),
                expected: "a vector of floats",
            })?));
        }
        let factor_key = "rope.scaling.factor";
        let factor = self.float(factor_key)?.or(self.float("rope.scale_linear")?);
        let needed = || factor.ok_or_else(|| missing(self.key(factor_key)));
        match kind {
            None if factor.is_none_or(|factor| factor == 1.0) => Ok(RopeScaling::None),
            Some("none") => Ok(RopeScaling::None),
            None | Some("linear") => Ok(RopeScaling::Linear { factor: needed()? }),
            Some("yarn") => {
                let key = "rope.scaling.original_context_length";
                let factor = needed()?;
                let scale = self.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
                Ok(RopeScaling::Yarn {
                    factor,
                    original_context: self.size(key)? as f32,
                    beta_fast: self.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    attention_factor: scale * super::rope::yarn_attention_factor(factor),
                })
            }
            Some(other) => Err(self.unsupported(&format!("rope scaling {other:?}"), TYPE)),
        }
    }
}
