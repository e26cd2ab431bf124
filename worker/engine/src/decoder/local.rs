//! A decoder on one rank with its own keys and values: what an engine drives.

use std::error::Error;

use naru_kernels::{KvPool, ShapeError};

use super::{Decoder, SingleRank};
use crate::engine::{Batch, Forward};

/// A whole model and its KV cache in this process.
pub struct LocalDecoder {
    decoder: Decoder,
    kv: KvPool,
}

impl LocalDecoder {
    /// `decoder`, which must hold the whole model, with `blocks` blocks of keys and values. Errors:
    /// no memory for them.
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
