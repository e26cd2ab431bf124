//! What one rank holds of a model, on this processor or on a GPU, before there is a KV cache.

use std::sync::Arc;

use anyhow::Context;
use naru_engine::{CudaModel, Decoder, LoadProgress, LocalDecoder, ModelFiles, RankDecoder, Shard};
use naru_kernels::ComputePool;
use naru_kernels::cuda::Gpu;

use crate::load::EngineSettings;

/// A rank's weights, where they are computed on.
pub(super) enum Part {
    Processor(Box<Decoder>),
    Gpu(Box<CudaModel>),
}

impl Part {
    /// Loads `shard` with the threads of `pool`, onto the GPU if there is one. Errors: a part of
    /// the model cannot be read, or there is too little memory.
    pub(super) fn load(
        files: &ModelFiles,
        shard: Shard,
        settings: &EngineSettings,
        (pool, gpu): (ComputePool, Option<Gpu>),
        tell: &mut dyn FnMut(LoadProgress),
    ) -> anyhow::Result<Self> {
        const LOADING: &str = "loading the model";
        let Some(gpu) = gpu else {
            let decoder = Decoder::load(files, shard, Arc::new(pool), tell).context(LOADING)?;
            return Ok(Self::Processor(Box::new(decoder)));
        };
        let rank = shard.rank();
        let limits = settings.on_gpu(files.config().context_tokens);
        let model = CudaModel::load(files, shard, Box::new(gpu), &pool, limits, tell);
        let model = model.with_context(|| format!("rank {rank}: {LOADING}"))?;
        let free = model.free_bytes().context("asking for the GPU's memory")?;
        tracing::info!(rank, free_bytes = free, "a rank's weights are on its GPU");
        Ok(Self::Gpu(Box::new(model)))
    }

    /// What a block of keys and values takes on the rank that has most layers: the number of blocks
    /// that follows from it is the same on all.
    pub(super) fn kv_bytes_per_block(&self) -> u64 {
        let (shard, config, bytes) = match self {
            Self::Processor(part) => (part.shard(), part.config(), part.kv_bytes_per_block()),
            Self::Gpu(part) => (part.shard(), part.config(), part.kv_bytes_per_block()),
        };
        let layers = config.layers.len().div_ceil(shard.parallelism().pipeline());
        (bytes / shard.layers().len().max(1) * layers) as u64
    }

    /// With memory for `blocks` blocks. Errors: there is not so much.
    pub(super) fn with_kv_blocks(self, blocks: usize) -> anyhow::Result<Box<dyn RankDecoder>> {
        Ok(match self {
            Self::Processor(part) => Box::new(LocalDecoder::new(*part, blocks)?),
            Self::Gpu(part) => Box::new(part.with_kv_blocks(blocks)?),
        })
    }
}
