//! Decoder: tokens to logits, for the part of a model that one rank holds.
//!
//! ```text
//! embed ─ [ norm ─ q k v ─ rope ─ KV write ─ attention ─ output ─ Σ ranks
//!           norm ─ gate up ─ down ─ Σ ranks ] × layers ─ norm ─ head
//! ```
//!
//! Which of these blocks a model has, and where its norms stand, is data ([`ModelConfig`]). Where
//! the ranks of a replica must agree the decoder calls a [`Collective`]; one rank has
//! [`SingleRank`], where nothing happens. How several ranks go through a step together is in
//! [`ShardedDecoder`], rank 0's side, and [`serve_rank`], the others'.

mod collective;
mod cuda;
mod forward;
mod layer;
mod load;
mod local;
mod pass;
mod positions;
mod ranks;
mod shard;
mod step;
#[cfg(test)]
pub(crate) mod tests;

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use naru_kernels::cuda::GpuError;
use naru_kernels::{ComputePool, KvLayout, KvPool, PackedMatrix, ShapeError};
use thiserror::Error;

pub use collective::{
    Clock, Collective, CollectiveError, LinkTime, MESSAGES_MAX, SingleRank, ThreadCollective,
};
pub use cuda::{CudaDecoder, CudaLimits, CudaLoadError, CudaModel};
pub use load::{LoadError, LoadProgress};
pub use local::LocalDecoder;
pub use ranks::{PlanError, RankDecoder, RankError, ShardedDecoder, read_plans, serve_rank};
pub use shard::{Parallelism, Shard, ShardError, Splits};

use crate::config::ModelConfig;
use crate::engine::Batch;
use crate::model::ModelFiles;
use crate::weights::MappedMatrix;
use forward::Scratch;
use layer::{Head, Layer};
use positions::RopeTables;
use shard::Cut;

/// The part of a model that one rank holds, ready to compute.
pub struct Decoder {
    config: ModelConfig,
    shard: Shard,
    pool: Arc<ComputePool>,
    cut: Cut,
    embedding: Option<MappedMatrix>,
    layers: Vec<Layer<PackedMatrix, Vec<f32>>>,
    head: Option<Head<PackedMatrix, Vec<f32>>>,
    ropes: RopeTables,
    scratch: Scratch,
}

impl Decoder {
    /// Lays out the weights of `shard` for this processor, on all threads of `pool`; `progress` is
    /// told after each layer. Errors: a shard that the model cannot be cut into, a tensor that is
    /// missing or has another shape or format.
    pub fn load(
        files: &ModelFiles,
        shard: Shard,
        pool: Arc<ComputePool>,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, LoadError> {
        load::load(&load::Source::of(files), shard, pool, false, progress)
    }

    /// As [`load`](Self::load) with all matrices as 32-bit floats, so that no activation is rounded
    /// either: slow, and what others are compared with.
    pub fn load_in_floats(
        files: &ModelFiles,
        shard: Shard,
        pool: Arc<ComputePool>,
    ) -> Result<Self, LoadError> {
        load::load(&load::Source::of(files), shard, pool, true, &mut |_| ())
    }

    /// Computes `batch`, writes keys and values of each token into its span's blocks, and returns
    /// logits `[logit_rows, vocabulary_part]`; on a stage that is not the last, none. A row's bits
    /// depend on the tokens of its own sequence alone. Errors: a batch that cannot be, or the other
    /// ranks are gone; the tokens of the batch then count as not computed.
    pub fn forward(
        &mut self,
        batch: &Batch,
        kv: &mut KvPool,
        collective: &mut dyn Collective,
    ) -> Result<&[f32], StepError> {
        forward::forward(self, batch, kv, collective)
    }

    /// Whether `batch` is one that [`forward`](Self::forward) can compute. Errors: why not.
    fn check(&self, batch: &Batch, kv: &KvPool) -> Result<(), StepError> {
        forward::check(batch, self.config.vocabulary, kv.layout().blocks)
    }

    /// Takes the logits of the last step, and leaves `values` to be written over by the next.
    fn take_logits(&mut self, values: &mut Vec<f32>) {
        mem::swap(&mut self.scratch.logits, values);
    }

    /// Columns of the logits, and rows of the vocabulary, that are here.
    pub fn vocabulary_part(&self) -> Range<usize> {
        self.cut.vocabulary.clone()
    }

    /// Bytes of the matrices that were laid out here.
    pub fn weight_bytes(&self) -> usize {
        let projections = self.layers.iter().flat_map(|layer| {
            let Layer { input, output, up, down, .. } = layer;
            [input, output, up, down].map(|projection| projection.weight.bytes())
        });
        projections.sum::<usize>() + self.head.as_ref().map_or(0, |head| head.weight.bytes())
    }

    /// An empty pool of `blocks` blocks for this rank's layers and heads. Errors: no memory for it.
    pub fn new_kv_pool(&self, blocks: usize) -> Result<KvPool, ShapeError> {
        KvPool::new(self.kv_layout(blocks))
    }

    /// Bytes that one block of keys and values takes on this rank.
    pub fn kv_bytes_per_block(&self) -> usize {
        self.kv_layout(1).bytes_per_block()
    }

    /// The whole model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The part of it that is here.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    fn kv_layout(&self, blocks: usize) -> KvLayout {
        KvLayout {
            layers: self.layers.len(),
            kv_heads: self.cut.kv_heads.len(),
            head_dim: self.config.attention.head_dim,
            blocks,
        }
    }
}

/// A step that could not be computed.
#[derive(Debug, Error)]
pub enum StepError {
    /// A token id that the embedding table has no row for.
    #[error("token {token} at place {place} of the batch: the vocabulary has {vocabulary}")]
    Token {
        /// The id.
        token: u32,
        /// Where it is in the batch.
        place: usize,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// Spans, rows or block tables that do not fit together.
    #[error("the batch cannot be: {reason}")]
    Batch {
        /// What does not fit.
        reason: String,
    },
    /// An op refused its operands.
    #[error("computing {op}")]
    Op {
        /// The step of the decoder.
        op: &'static str,
        /// What does not fit.
        #[source]
        source: ShapeError,
    },
    /// The ranks did not come together.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The ranks have parted in an earlier step.
    #[error("the ranks of this replica have parted")]
    Parted,
    /// The batch cannot be told to the other ranks.
    #[error("planning the step")]
    Plan(#[source] PlanError),
    /// The device did not do what it was asked.
    #[error(transparent)]
    Device(#[from] GpuError),
}

impl StepError {
    /// The rank that could not be met, if that is what is wrong.
    pub fn lost_rank(&self) -> Option<usize> {
        match self {
            Self::Collective(error) => Some(error.rank),
            _ => None,
        }
    }
}
