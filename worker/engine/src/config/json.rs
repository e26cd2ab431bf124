//! A model's configuration from the `config.json` of a Hugging Face checkpoint.

use naru_kernels::GateKind;
use serde_json::Value;

use super::family::{self, Bias, Family, MultiplierKeys};
use super::{
    AttentionConfig, ConfigReadError, FeedForwardConfig, LayerConfig, ModelConfig, ModelRole,
    Multipliers, NormConfig, Rope, RopeScaling,
};
use crate::weights::Tensors;

const EPSILON_DEFAULT: f32 = 1e-6;
const ROPE_BASE_DEFAULT: f32 = 10_000.0;
/// Keys that make a checkpoint something else than the plain model of its type.
const UNSUPPORTED_KEYS: [(&str, &str); 4] = [
    ("quantization_config", "a quantised safetensors checkpoint"),
    ("num_local_experts", "a mixture of experts"),
    ("num_experts", "a mixture of experts"),
    ("n_routed_experts", "a mixture of experts"),
];

/// Reads the configuration and finds its family. Errors: an unknown `model_type`, an unsupported
/// block, a key that is missing or cannot be.
pub(crate) fn read_json(
    json: &Value,
    tensors: &Tensors,
) -> Result<(ModelConfig, &'static Family), ConfigReadError> {
    let keys = Keys { json, path: "" };
    let model_type = keys.text("model_type")?.ok_or_else(|| keys.missing("model_type"))?;
    let family = family::of_json(model_type)?;
    let config = Reader { keys, family, tensors, model_type }.read()?;
    config.check()?;
    Ok((config, family))
}

/// An object of a `config.json` with typed ways to read it; null counts as absent.
#[derive(Clone, Copy)]
struct Keys<'a> {
    json: &'a Value,
    /// What stands before a key of this object in an error.
    path: &'static str,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigReadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found: String = value.to_string().chars().take(80).collect();
        let wrong = || ConfigReadError::Value { key: self.name(key), found, expected };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn missing(&self, key: &str) -> ConfigReadError {
        ConfigReadError::MissingKey { key: self.name(key) }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigReadError> {
        self.typed(key, "text is needed", Value::as_str)
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigReadError> {
        self.typed(key, "true or false is needed", Value::as_bool)
    }

    fn float(&self, key: &str) -> Result<Option<f32>, ConfigReadError> {
        self.typed(key, "a number is needed", |value| value.as_f64().map(|value| value as f32))
    }

    fn unsigned(&self, key: &str) -> Result<Option<usize>, ConfigReadError> {
        self.typed(key, "a whole number of at least zero is needed", |value| {
            value.as_u64().and_then(|value| usize::try_from(value).ok())
        })
    }

    fn size(&self, key: &str) -> Result<usize, ConfigReadError> {
        self.unsigned(key)?.ok_or_else(|| self.missing(key))
    }
}

struct Reader<'a> {
    keys: Keys<'a>,
    family: &'static Family,
    tensors: &'a Tensors,
    model_type: &'a str,
}

impl Reader<'_> {
    fn unsupported(&self, block: &str, key: &str) -> ConfigReadError {
        ConfigReadError::UnsupportedBlock {
            architecture: self.model_type.to_owned(),
            block: block.to_owned(),
            key: key.to_owned(),
        }
    }

    fn read(&self) -> Result<ModelConfig, ConfigReadError> {
        let keys = self.keys;
        if let Some((key, block)) = UNSUPPORTED_KEYS.iter().find(|(key, _)| keys.get(key).is_some())
        {
            return Err(self.unsupported(block, key));
        }
        let hidden = keys.size("hidden_size")?;
        let attention = self.attention(hidden)?;
        let layers = self.layers(attention.head_dim)?;
        let context_tokens = keys.size("max_position_embeddings")?;
        Ok(ModelConfig {
            architecture: self.model_type.to_owned(),
            vocabulary: keys.size("vocab_size")?,
            hidden,
            context_tokens: layers.iter().fold(context_tokens, stretched_context),
            tied_embeddings: self.tied_embeddings()?,
            attention,
            feed_forward: FeedForwardConfig {
                width: keys.size("intermediate_size")?,
                activation: self.activation()?,
                gated: true,
                bias: keys.boolean("mlp_bias")?.unwrap_or(false),
            },
            norm: NormConfig {
                kind: self.family.norm,
                placement: self.family.placement,
                epsilon: keys.float("rms_norm_eps")?.unwrap_or(EPSILON_DEFAULT),
            },
            layers,
            multipliers: self.multipliers()?,
            final_softcap: None,
        })
    }

    fn attention(&self, hidden: usize) -> Result<AttentionConfig, ConfigReadError> {
        let keys = self.keys;
        let heads = keys.size("num_attention_heads")?;
        let head_dim = keys.unsigned("head_dim")?;
        let head_dim = head_dim.unwrap_or(hidden.checked_div(heads).unwrap_or(0));
        let stated = keys.boolean("attention_bias")?.unwrap_or(false);
        let bias = |bias| match bias {
            Bias::Never => false,
            Bias::Always => true,
            Bias::Stated => stated,
        };
        let scale = match self.family.multipliers {
            MultiplierKeys::None => None,
            MultiplierKeys::Granite => keys.float("attention_multiplier")?,
        };
        Ok(AttentionConfig {
            heads,
            kv_heads: keys.unsigned("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            scale: scale.unwrap_or((head_dim as f32).sqrt().recip()),
            input_bias: bias(self.family.input_bias),
            output_bias: bias(self.family.output_bias),
            qk_norm: self.family.qk_norm,
            softcap: None,
        })
    }

    fn tied_embeddings(&self) -> Result<bool, ConfigReadError> {
        let head = self.family.names.of_model(ModelRole::Output);
        let has_head = head.is_some_and(|name| self.tensors.contains(&format!("{name}.weight")));
        Ok(self.keys.boolean("tie_word_embeddings")?.unwrap_or(!has_head))
    }

    fn activation(&self) -> Result<GateKind, ConfigReadError> {
        match self.keys.text("hidden_act")?.unwrap_or("silu") {
            "silu" | "swish" => Ok(GateKind::Silu),
            "gelu" => Ok(GateKind::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(GateKind::GeluTanh),
            other => Err(self.unsupported(&format!("activation {other:?}"), "hidden_act")),
        }
    }

    fn multipliers(&self) -> Result<Multipliers, ConfigReadError> {
        let (keys, one) = (self.keys, Multipliers::default());
        Ok(match self.family.multipliers {
            MultiplierKeys::None => one,
            MultiplierKeys::Granite => Multipliers {
                embedding: keys.float("embedding_multiplier")?.unwrap_or(one.embedding),
                residual: keys.float("residual_multiplier")?.unwrap_or(one.residual),
                logit: keys.float("logits_scaling")?.map_or(one.logit, f32::recip),
            },
        })
    }

    fn layers(&self, head_dim: usize) -> Result<Vec<LayerConfig>, ConfigReadError> {
        let key = "num_hidden_layers";
        let layers = super::check_layers(self.keys.size(key)?, key)?;
        let rope = self.rope(head_dim)?;
        (0..layers)
            .map(|layer| Ok(LayerConfig { rope: Some(rope.clone()), window: self.window(layer)? }))
            .collect()
    }

    fn window(&self, layer: usize) -> Result<Option<usize>, ConfigReadError> {
        let keys = self.keys;
        if !self.family.windows || keys.boolean("use_sliding_window")? == Some(false) {
            return Ok(None);
        }
        let Some(window) = keys.unsigned("sliding_window")?.filter(|&tokens| tokens > 0) else {
            return Ok(None);
        };
        if let Some(types) = keys.get("layer_types") {
            return match types.get(layer).and_then(Value::as_str) {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => Ok(Some(window)),
                found => Err(self.unsupported(&format!("layer type {found:?}"), "layer_types")),
            };
        }
        // Qwen 2 and 3 leave their first layers without a window, but only if they have any.
        let first = keys.unsigned("max_window_layers")?.unwrap_or(0);
        Ok((layer >= first).then_some(window))
    }

    fn rope(&self, head_dim: usize) -> Result<Rope, ConfigReadError> {
        let parameters = |key, path| self.keys.get(key).map(|json| Keys { json, path });
        // Transformers 5 writes `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
        let nested = parameters("rope_parameters", "rope_parameters.")
            .or_else(|| parameters("rope_scaling", "rope_scaling."));
        let base = match nested.map(|nested| nested.float("rope_theta")).transpose()?.flatten() {
            Some(base) => base,
            None => self.keys.float("rope_theta")?.unwrap_or(ROPE_BASE_DEFAULT),
        };
        let share = self.keys.float("partial_rotary_factor")?.unwrap_or(1.0);
        if !(share > 0.0 && share <= 1.0) {
            return Err(ConfigReadError::Value {
                key: "partial_rotary_factor".to_owned(),
                found: share.to_string(),
                expected: "a share above 0, at most 1, is needed",
            });
        }
        Ok(Rope {
            pairs: self.family.pairs,
            rotary_dim: (head_dim as f32 * share) as usize,
            base,
            scaling: nested.map_or(Ok(RopeScaling::None), |nested| self.rope_scaling(&nested))?,
        })
    }

    fn rope_scaling(&self, keys: &Keys<'_>) -> Result<RopeScaling, ConfigReadError> {
        let kind = keys.text("rope_type")?.or(keys.text("type")?).unwrap_or("default");
        let needed = |key: &str| keys.float(key)?.ok_or_else(|| keys.missing(key));
        let original = || {
            let tokens = keys.float("original_max_position_embeddings")?;
            let size = || self.keys.size("max_position_embeddings").map(|tokens| tokens as f32);
            tokens.map_or_else(size, Ok)
        };
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: needed("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_frequency_factor: needed("low_freq_factor")?,
                high_frequency_factor: needed("high_freq_factor")?,
                original_context: original()?,
            }),
            "yarn" => {
                let odd = ["mscale", "mscale_all_dim", "truncate"];
                if let Some(key) = odd.into_iter().find(|key| keys.get(key).is_some()) {
                    return Err(self.unsupported("this form of yarn", &keys.name(key)));
                }
                let factor = needed("factor")?;
                let attention_factor = keys.float("attention_factor")?;
                Ok(RopeScaling::Yarn {
                    factor,
                    original_context: original()?,
                    beta_fast: keys.float("beta_fast")?.unwrap_or(32.0),
                    beta_slow: keys.float("beta_slow")?.unwrap_or(1.0),
                    attention_factor: attention_factor
                        .unwrap_or_else(|| super::rope::yarn_attention_factor(factor)),
                })
            }
            other => {
                Err(self.unsupported(&format!("rope scaling {other:?}"), &keys.name("rope_type")))
            }
        }
    }
}

/// Yarn states the context before stretching; the model holds `factor` times that.
fn stretched_context(context: usize, layer: &LayerConfig) -> usize {
    match layer.rope.as_ref().map(|rope| &rope.scaling) {
        Some(RopeScaling::Yarn { factor, original_context, .. }) => {
            context.max((factor * original_context) as usize)
        }
        _ => context,
    }
}
