//! Names: which tensor of a checkpoint plays which role.

/// A tensor of the model as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelRole {
    Embedding,
    OutputNorm,
    Output,
}

/// A tensor that each layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerRole {
    AttentionNorm,
    AttentionPostNorm,
    Query,
    Key,
    Value,
    AttentionOutput,
    QueryNorm,
    KeyNorm,
    FeedForwardNorm,
    FeedForwardPostNorm,
    Gate,
    Up,
    Down,
}

/// What the tensors of a family's checkpoints are called, without their `.weight` or `.bias`; `{}`
/// stands for the layer.
#[derive(Debug)]
pub(crate) struct NameTable {
    pub(crate) model: &'static [(ModelRole, &'static str)],
    pub(crate) layer: &'static [(LayerRole, &'static str)],
}

impl NameTable {
    /// The name of a tensor of the whole model; `None`: this family has none.
    pub(crate) fn of_model(&self, role: ModelRole) -> Option<String> {
        let (_, name) = self.model.iter().find(|(known, _)| *known == role)?;
        Some((*name).to_owned())
    }

    /// The name of layer `layer`'s tensor; `None`: this family has none.
    pub(crate) fn of_layer(&self, role: LayerRole, layer: usize) -> Option<String> {
        let (_, pattern) = self.layer.iter().find(|(known, _)| *known == role)?;
        Some(pattern.replacen("{}", &layer.to_string(), 1))
    }
}

/// The names that all decoder-only models share in GGUF files. Source: `constants.py` of gguf-py.
pub(crate) static GGUF: NameTable = NameTable {
    model: &[
        (ModelRole::Embedding, "token_embd"),
        (ModelRole::OutputNorm, "output_norm"),
        (ModelRole::Output, "output"),
    ],
    layer: &[
        (LayerRole::AttentionNorm, "blk.{}.attn_norm"),
        (LayerRole::AttentionPostNorm, "blk.{}.post_attention_norm"),
        (LayerRole::Query, "blk.{}.attn_q"),
        (LayerRole::Key, "blk.{}.attn_k"),
        (LayerRole::Value, "blk.{}.attn_v"),
        (LayerRole::AttentionOutput, "blk.{}.attn_output"),
        (LayerRole::QueryNorm, "blk.{}.attn_q_norm"),
        (LayerRole::KeyNorm, "blk.{}.attn_k_norm"),
        (LayerRole::FeedForwardNorm, "blk.{}.ffn_norm"),
        (LayerRole::FeedForwardPostNorm, "blk.{}.post_ffw_norm"),
        (LayerRole::Gate, "blk.{}.ffn_gate"),
        (LayerRole::Up, "blk.{}.ffn_up"),
        (LayerRole::Down, "blk.{}.ffn_down"),
    ],
};

/// The names of Hugging Face's llama and of the families shaped like it.
pub(crate) static LLAMA: NameTable = NameTable {
    model: &[
        (ModelRole::Embedding, "model.embed_tokens"),
        (ModelRole::OutputNorm, "model.norm"),
        (ModelRole::Output, "lm_head"),
    ],
    layer: &[
        (LayerRole::AttentionNorm, "model.layers.{}.input_layernorm"),
        (LayerRole::Query, "model.layers.{}.self_attn.q_proj"),
        (LayerRole::Key, "model.layers.{}.self_attn.k_proj"),
        (LayerRole::Value, "model.layers.{}.self_attn.v_proj"),
        (LayerRole::AttentionOutput, "model.layers.{}.self_attn.o_proj"),
        (LayerRole::QueryNorm, "model.layers.{}.self_attn.q_norm"),
        (LayerRole::KeyNorm, "model.layers.{}.self_attn.k_norm"),
        (LayerRole::FeedForwardNorm, "model.layers.{}.post_attention_layernorm"),
        (LayerRole::Gate, "model.layers.{}.mlp.gate_proj"),
        (LayerRole::Up, "model.layers.{}.mlp.up_proj"),
        (LayerRole::Down, "model.layers.{}.mlp.down_proj"),
    ],
};
