//! Which part of a model one rank holds.

use std::ops::Range;

use thiserror::Error;

use crate::config::{AttentionConfig, ModelConfig};

/// The part of a model that one rank loads and computes: some layers, and in each of them its share
/// of the heads and of the feed-forward columns. The output head of the last stage is cut by rows
/// of the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Layers of the model.
    pub layers: Range<usize>,
    /// The number of this rank in its stage.
    pub tensor_rank: usize,
    /// Ranks of a stage.
    pub tensor_ranks: usize,
    /// Whether this stage embeds tokens.
    pub first_stage: bool,
    /// Whether this stage makes logits.
    pub last_stage: bool,
}

impl Shard {
    /// The whole model.
    pub fn whole(config: &ModelConfig) -> Self {
        Self {
            layers: 0..config.layers.len(),
            tensor_rank: 0,
            tensor_ranks: 1,
            first_stage: true,
            last_stage: true,
        }
    }

    /// Tensor rank `tensor_rank` of `tensor_ranks` in stage `stage` of `stages`; layers are spread
    /// evenly, earlier stages take one more where they do not divide.
    pub fn of(
        config: &ModelConfig,
        (tensor_rank, tensor_ranks): (usize, usize),
        (stage, stages): (usize, usize),
    ) -> Self {
        let layers = config.layers.len();
        let start = |stage: usize| stage * (layers / stages) + stage.min(layers % stages);
        Self {
            layers: start(stage)..start(stage + 1),
            tensor_rank,
            tensor_ranks,
            first_stage: stage == 0,
            last_stage: stage + 1 == stages,
        }
    }
}

/// A shard that a model cannot be cut into.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShardError {
    /// Layers that the model does not have, or none.
    #[error("layers {layers:?} of a model of {found}")]
    Layers {
        /// The layers asked for.
        layers: Range<usize>,
        /// How many the model has.
        found: usize,
    },
    /// A rank outside its stage.
    #[error("tensor rank {rank} of {ranks}")]
    Rank {
        /// The rank asked for.
        rank: usize,
        /// Ranks of the stage.
        ranks: usize,
    },
    /// Something that the ranks of a stage cannot share evenly.
    #[error("{size} {what} cannot be shared evenly by {ranks} tensor ranks")]
    Uneven {
        /// What is shared.
        what: &'static str,
        /// How much of it there is.
        size: usize,
        /// Ranks of the stage.
        ranks: usize,
    },
}

/// What of each layer, and of the head, a rank holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Query heads.
    pub(super) heads: Range<usize>,
    /// Key-value heads; ranks share one where there are fewer heads than ranks.
    pub(super) kv_heads: Range<usize>,
    /// Columns of the feed-forward block.
    pub(super) width: Range<usize>,
    /// Rows of the vocabulary; the last ranks may have fewer than `vocabulary_part`.
    pub(super) vocabulary: Range<usize>,
    /// Rows of the vocabulary that each rank has room for.
    pub(super) vocabulary_part: usize,
}

impl Shard {
    /// What this shard holds of `config`. Errors: it cannot be cut so.
    pub(super) fn cut(&self, config: &ModelConfig) -> Result<Cut, ShardError> {
        /// Rows that the kernels lay out together; a part that is whole panels wastes nothing.
        const VOCABULARY_STEP: usize = 16;
        let found = config.layers.len();
        if self.layers.is_empty() || self.layers.end > found {
            return Err(ShardError::Layers { layers: self.layers.clone(), found });
        }
        let (rank, ranks) = (self.tensor_rank, self.tensor_ranks);
        if rank >= ranks {
            return Err(ShardError::Rank { rank, ranks });
        }
        let part = |what, size: usize| {
            let uneven = ShardError::Uneven { what, size, ranks };
            let part = size.is_multiple_of(ranks).then_some(size / ranks).ok_or(uneven)?;
            Ok(rank * part..(rank + 1) * part)
        };
        let heads = part("attention heads", config.attention.heads)?;
        let vocabulary_part = config.vocabulary.div_ceil(ranks).next_multiple_of(VOCABULARY_STEP);
        let start = (rank * vocabulary_part).min(config.vocabulary);
        Ok(Cut {
            kv_heads: kv_heads(&config.attention, &heads, ranks)?,
            heads,
            width: part("feed-forward columns", config.feed_forward.width)?,
            vocabulary: start..(start + vocabulary_part).min(config.vocabulary),
            vocabulary_part,
        })
    }
}

/// The key-value heads that `heads` read, when each of them is read by equally many.
fn kv_heads(
    attention: &AttentionConfig,
    heads: &Range<usize>,
    ranks: usize,
) -> Result<Range<usize>, ShardError> {
    let group = attention.heads / attention.kv_heads;
    if heads.len().is_multiple_of(group) || group.is_multiple_of(heads.len()) {
        return Ok(heads.start / group..heads.end.div_ceil(group));
    }
    let (what, size) = ("key-value heads", attention.kv_heads);
    Err(ShardError::Uneven { what, size, ranks })
}
