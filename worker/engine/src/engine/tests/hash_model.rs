//! A model without weights whose logits are a hash of the whole history, read back from a KV cache
//! through the block table: a wrong table, position or stale block changes every later token.

use std::error::Error;

use crate::engine::{Batch, Forward, Vocabulary};
use crate::kv::KV_BLOCK_TOKENS;

/// Ids below this exist in the tokenizer; the model has a few rows more.
pub(super) const TOKENS: usize = 60;
pub(super) const VOCAB: usize = 64;
pub(super) const EOS: u32 = 2;
/// A control token that does not end answers.
pub(super) const SPECIAL: u32 = 1;

pub(super) struct HashModel {
    kv: Vec<u64>,
    logits: Vec<f32>,
    /// The forward passes, counted from 0, that fail.
    pub(super) failing: Vec<usize>,
    passes: usize,
}

impl HashModel {
    pub(super) fn new(blocks: usize) -> Self {
        let kv = vec![u64::MAX; blocks * KV_BLOCK_TOKENS];
        Self { kv, logits: Vec::new(), failing: Vec::new(), passes: 0 }
    }
}

impl Forward for HashModel {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn forward(&mut self, batch: &Batch) -> Result<&[f32], Box<dyn Error + Send + Sync>> {
        let pass = self.passes;
        self.passes += 1;
        if self.failing.contains(&pass) {
            // As a real failure might: some of the cache was written.
            self.kv.iter_mut().step_by(3).for_each(|slot| *slot ^= 1 << 40);
            return Err("the hash ran dry".into());
        }
        self.logits.clear();
        for span in &batch.spans {
            for (offset, index) in span.tokens.clone().enumerate() {
                let position = span.position + offset;
                let slot = |position: usize| {
                    let block = span.blocks[position / KV_BLOCK_TOKENS] as usize;
                    block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS
                };
                let history = (0..position).fold(7, |hash, p| mix(hash, self.kv[slot(p)]));
                let state = mix(history, u64::from(batch.tokens[index]));
                self.kv[slot(position)] = state;
                if batch.logit_rows.contains(&index) {
                    let row = (0..VOCAB as u64).map(|id| (mix(state, id) >> 40) as f32 / 2e6);
                    self.logits.extend(row);
                }
            }
        }
        assert_eq!(self.logits.len(), batch.logit_rows.len() * VOCAB);
        Ok(&self.logits)
    }
}

fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
}

/// Tokens that stand for letters, and some for halves of one character.
pub(super) struct Letters {
    bytes: Vec<Vec<u8>>,
}

impl Letters {
    pub(super) fn new() -> Self {
        let bytes = (0..TOKENS as u8).map(|id| match id {
            1 => b"<special>".to_vec(),
            2 => b"<eos>".to_vec(),
            3 => vec![0xc3],
            4 => vec![0xa9],
            id if id % 3 == 0 => vec![b'a' + id % 26, b'a' + id % 7],
            id => vec![b'a' + id % 26],
        });
        Self { bytes: bytes.collect() }
    }
}

impl Vocabulary for Letters {
    fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    fn is_special(&self, id: u32) -> bool {
        id == SPECIAL || id == EOS
    }

    fn eos_ids(&self) -> &[u32] {
        &[EOS]
    }
}
