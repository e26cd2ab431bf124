//! One sequence's blocks, in the order of its tokens.

use super::pool::{BlockId, BlockPool, Prefix};
use super::{KV_BLOCK_TOKENS, blocks_for};

/// The blocks of one sequence. Must be given back by `release`; a table that is dropped leaks.
#[derive(Debug)]
#[must_use]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
    /// The first so many blocks are full, computed and known to the pool by `prefix`.
    sealed: usize,
    prefix: Prefix,
}

impl BlockTable {
    /// An empty table under `root`, holding whatever full blocks of `tokens` the pool has. At least
    /// one token is left out, for a sequence needs the logits after its last.
    pub(crate) fn open(pool: &mut BlockPool, root: Prefix, tokens: &[u32]) -> Self {
        let mut table = Self { blocks: Vec::new(), sealed: 0, prefix: root };
        let reusable = &tokens[..tokens.len().saturating_sub(1)];
        for block in reusable.as_chunks::<KV_BLOCK_TOKENS>().0 {
            let Some((id, prefix)) = pool.find(table.prefix, *block) else { break };
            pool.share(id);
            table.blocks.push(id);
            table.prefix = prefix;
        }
        table.sealed = table.blocks.len();
        table
    }

    /// An empty table under `root`.
    pub(crate) fn empty(root: Prefix) -> Self {
        Self { blocks: Vec::new(), sealed: 0, prefix: root }
    }

    /// Tokens in full blocks whose K and V are computed.
    pub(crate) fn sealed_tokens(&self) -> usize {
        self.sealed * KV_BLOCK_TOKENS
    }

    /// Blocks missing for `tokens` tokens.
    pub(crate) fn missing(&self, tokens: usize) -> usize {
        blocks_for(tokens).saturating_sub(self.blocks.len())
    }

    /// Grows to `tokens` tokens, or does nothing. False: the pool has too few blocks.
    pub(crate) fn reserve(&mut self, pool: &mut BlockPool, tokens: usize) -> bool {
        let missing = self.missing(tokens);
        if pool.available() < missing {
            return false;
        }
        self.blocks.extend((0..missing).filter_map(|_| pool.take()));
        true
    }

    /// Makes every block that `computed` (the sequence's tokens up to the last computed) fills
    /// reusable.
    pub(crate) fn seal(&mut self, pool: &mut BlockPool, computed: &[u32]) {
        let full = computed.as_chunks::<KV_BLOCK_TOKENS>().0;
        for (block, id) in full.iter().zip(&self.blocks).skip(self.sealed) {
            self.prefix = pool.seal(*id, self.prefix, *block);
        }
        self.sealed = full.len();
    }

    /// Gives every block back, the last first: of a cached sequence the end is evicted before the
    /// beginning, without which it could not be found.
    pub(crate) fn release(self, pool: &mut BlockPool) {
        for id in self.blocks.into_iter().rev() {
            pool.release(id);
        }
    }

    /// The blocks' indices in the KV cache.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.blocks.iter().map(|id| id.0).collect()
    }
}
