//! The block pool: reference counts, reuse by content, eviction.

use std::collections::{BTreeMap, HashMap};

use super::KV_BLOCK_TOKENS;

/// A block of the KV cache, by its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockId(pub(crate) u32);

/// All tokens from a sequence's start up to the end of one of its full blocks, and who may see
/// them. Equal values mean equal tokens under an equal root, without trusting any hash: a sealed
/// prefix is a serial number given to one (parent, tokens) pair and never given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Prefix {
    /// No tokens yet, shared among requests of this tenant salt.
    Tenant(u64),
    /// No tokens yet, shared among the choices of this request.
    Request(u64),
    /// The prefix that ends with the block sealed under this serial number.
    Sealed(u64),
}

/// What makes a full block's content: the prefix before it and the tokens in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Content {
    parent: Prefix,
    tokens: [u32; KV_BLOCK_TOKENS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    references: u32,
    sealed: Option<Sealed>,
    /// Key in `evictable`, while the block is there.
    released_at: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Sealed {
    content: Content,
    serial: u64,
}

/// Every block of the cache. Panics on misuse (a release without a reference): the scheduler is the
/// only caller and such a call is its bug.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    by_content: HashMap<Content, BlockId>,
    /// Unreferenced sealed blocks, least recently released first.
    evictable: BTreeMap<u64, BlockId>,
    /// Whether sealed blocks outlive their last reference.
    retain: bool,
    serial_next: u64,
    release_next: u64,
}

impl BlockPool {
    /// A pool of `blocks` free blocks. With `retain`, unreferenced sealed blocks stay reusable
    /// until their space is needed.
    pub(crate) fn new(blocks: usize, retain: bool) -> Self {
        let blocks_u32 = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self {
            blocks: vec![Block::default(); blocks_u32 as usize],
            free: (0..blocks_u32).rev().map(BlockId).collect(),
            by_content: HashMap::new(),
            evictable: BTreeMap::new(),
            retain,
            serial_next: 0,
            release_next: 0,
        }
    }

    /// Blocks there are.
    pub(crate) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Unreferenced blocks whose content may still be reused.
    pub(crate) fn cached(&self) -> usize {
        self.evictable.len()
    }

    /// Blocks that `take` could return now.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.evictable.len()
    }

    /// A block for new content, referenced once; evicts the least recently used cached block when
    /// none is free. None: every block is referenced.
    pub(crate) fn take(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.evict()?,
        };
        let block = self.block_mut(id);
        assert!(block.references == 0 && block.sealed.is_none(), "{id:?} was taken while in use");
        block.references = 1;
        Some(id)
    }

    /// The block that continues `parent` by these tokens and its prefix, if one is known.
    pub(crate) fn find(
        &self,
        parent: Prefix,
        tokens: [u32; KV_BLOCK_TOKENS],
    ) -> Option<(BlockId, Prefix)> {
        let id = *self.by_content.get(&Content { parent, tokens })?;
        let sealed = self.blocks[id.0 as usize].sealed?;
        Some((id, Prefix::Sealed(sealed.serial)))
    }

    /// One more reference to a block that `find` returned.
    pub(crate) fn share(&mut self, id: BlockId) {
        let block = self.block_mut(id);
        assert!(block.sealed.is_some(), "{id:?} was shared before it was sealed");
        block.references += 1;
        if let Some(key) = block.released_at.take() {
            self.evictable.remove(&key);
        }
    }

    /// Declares a referenced block full and computed: it continues `parent` by these tokens, and
    /// may be found from now on. Returns its prefix. Of two blocks of equal content the first
    /// sealed is the one that is found; the other stays its owner's alone, under the same prefix.
    pub(crate) fn seal(
        &mut self,
        id: BlockId,
        parent: Prefix,
        tokens: [u32; KV_BLOCK_TOKENS],
    ) -> Prefix {
        if let Some((_, prefix)) = self.find(parent, tokens) {
            return prefix;
        }
        let serial = self.serial_next;
        self.serial_next += 1;
        let content = Content { parent, tokens };
        let block = self.block_mut(id);
        assert!(block.references > 0 && block.sealed.is_none(), "{id:?} was sealed out of turn");
        block.sealed = Some(Sealed { content, serial });
        self.by_content.insert(content, id);
        Prefix::Sealed(serial)
    }

    /// Gives one reference back.
    pub(crate) fn release(&mut self, id: BlockId) {
        let retain = self.retain;
        let key = self.release_next;
        let block = self.block_mut(id);
        assert!(block.references > 0, "{id:?} was released more often than referenced");
        block.references -= 1;
        if block.references > 0 {
            return;
        }
        if retain && block.sealed.is_some() {
            block.released_at = Some(key);
            self.release_next += 1;
            self.evictable.insert(key, id);
        } else {
            self.forget(id);
            self.free.push(id);
        }
    }

    /// Frees every block that is kept only to be found again.
    pub(crate) fn forget_released(&mut self) {
        while let Some(id) = self.evict() {
            self.free.push(id);
        }
    }

    fn evict(&mut self) -> Option<BlockId> {
        let (_, id) = self.evictable.pop_first()?;
        self.block_mut(id).released_at = None;
        self.forget(id);
        Some(id)
    }

    fn forget(&mut self, id: BlockId) {
        if let Some(sealed) = self.block_mut(id).sealed.take() {
            self.by_content.remove(&sealed.content);
        }
    }

    fn block_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id.0 as usize]
    }
}

#[cfg(test)]
impl BlockPool {
    /// Every block is exactly one of free, cached and referenced, and every index agrees.
    /// Returns the number of references to all blocks together.
    pub(crate) fn check(&self) -> usize {
        let mut seen = vec![0; self.blocks.len()];
        for id in &self.free {
            seen[id.0 as usize] += 1;
            let block = &self.blocks[id.0 as usize];
            assert!(block.references == 0 && block.sealed.is_none(), "{id:?} is free and in use");
        }
        for (key, id) in &self.evictable {
            seen[id.0 as usize] += 1;
            let block = &self.blocks[id.0 as usize];
            assert_eq!(block.released_at, Some(*key));
            assert!(block.references == 0 && block.sealed.is_some(), "{id:?} cannot be evicted");
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let expected = usize::from(block.references == 0);
            assert_eq!(seen[index], expected, "block {index} is in {} lists", seen[index]);
            if let Some(sealed) = block.sealed {
                let found = self.by_content.get(&sealed.content);
                assert_eq!(found, Some(&BlockId(index as u32)), "block {index} cannot be found");
            }
        }
        let sealed = self.blocks.iter().filter(|block| block.sealed.is_some()).count();
        assert_eq!(self.by_content.len(), sealed, "content of unsealed blocks can be found");
        self.blocks.iter().map(|block| block.references as usize).sum()
    }
}
