//! A decoder on this processor with its own keys and values: what an engine drives, or a rank.

use std::error::Error;
use std::ops::Range;

use naru_kernels::{KvPool, ShapeError};

use super::{Collective, Decoder, RankDecoder, Shard, SingleRank, StepError};
use crate::config::ModelConfig;
use crate::engine::{Batch, Forward};

/// One rank's part of a model and its KV cache in this process; of a whole model, what an engine
/// drives.
pub struct LocalDecoder {
    decoder: Decoder,
    kv: KvPool,
}

impl LocalDecoder {
    /// `decoder` with `blocks` blocks of keys and values. Errors: no memory for them.
    pub fn new(decoder: Decoder, blocks: usize) -> Result<Self, ShapeError> {
        let kv = decoder.new_kv_pool(blocks)?;
        Ok(Self { decoder, kv })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }
}

impl Forward for LocalDecoder {
    fn vocab_size(&self) -> usize {
        self.decoder.config().vocabulary
    }

    fn forward(&mut self, batch: &Batch) -> Result<&[f32], Box<dyn Error + Send + Sync>> {
        Ok(self.decoder.forward(batch, &mut self.kv, &mut SingleRank)?)
    }
}

impl RankDecoder for LocalDecoder {
    fn config(&self) -> &ModelConfig {
        self.decoder.config()
    }

    fn shard(&self) -> &Shard {
        self.decoder.shard()
    }

    fn vocabulary_part_of(&self, rank: usize) -> Range<usize> {
        self.decoder.cut.vocabulary_part_of(&self.decoder.shard, rank)
    }

    fn check(&self, batch: &Batch) -> Result<(), StepError> {
        self.decoder.check(batch, &self.kv)
    }

    fn compute(
        &mut self,
        piece: &Batch,
        collective: &mut dyn Collective,
    ) -> Result<&[f32], StepError> {
        self.decoder.forward(piece, &mut self.kv, collective)
    }

    fn take_logits(&mut self, values: &mut Vec<f32>) {
        self.decoder.take_logits(values);
    }
}
