//! Paged keys and values.

use half::f16;

use crate::cpu::Cpu;
use crate::shape::{self, ShapeError};
use crate::simd;

/// Tokens in one block.
pub const KV_BLOCK_TOKENS: usize = 16;

const OP: &str = "key-value pool";

/// The size of a [`KvPool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Layers that have keys and values here.
    pub layers: usize,
    /// Key-value heads of each.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Blocks, each with room for [`KV_BLOCK_TOKENS`] tokens in every layer.
    pub blocks: usize,
}

impl KvLayout {
    /// Bytes that one block takes over all layers.
    pub fn bytes_per_block(&self) -> usize {
        self.layers * self.halves_per_layer_block() * size_of::<f16>()
    }

    fn halves_per_layer_block(&self) -> usize {
        self.kv_heads * 2 * self.head_dim * KV_BLOCK_TOKENS
    }
}

/// Where one token's keys and values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSlot {
    /// The block.
    pub block: u32,
    /// The token's place in it, below [`KV_BLOCK_TOKENS`].
    pub slot: usize,
}

/// Keys and values of many sequences as f16, in blocks of [`KV_BLOCK_TOKENS`] tokens. Inside a
/// block of a layer and head keys are transposed, `[head_dim][16]`, so that scores of 16 tokens
/// need no horizontal sums; values are `[16][head_dim]`. Memory is zero at first and taken from the
/// system as blocks are written.
#[derive(Debug)]
pub struct KvPool {
    layout: KvLayout,
    cpu: Cpu,
    halves: Vec<u16>,
}

impl KvPool {
    /// An empty pool. Errors: the size overflows, or there is no memory for it.
    pub fn new(layout: KvLayout) -> Result<Self, ShapeError> {
        let halves = [layout.blocks, layout.layers, layout.kv_heads, layout.head_dim]
            .into_iter()
            .try_fold(2 * KV_BLOCK_TOKENS, usize::checked_mul)
            .filter(|halves| *halves <= isize::MAX as usize / size_of::<f16>());
        let limit = ShapeError::Limit {
            op: OP,
            what: "blocks",
            limit: isize::MAX as usize,
            found: layout.blocks,
        };
        Ok(Self { layout, cpu: Cpu::detect(), halves: vec![0; halves.ok_or(limit)?] })
    }

    /// The size.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Bytes that one block takes over all layers.
    pub fn bytes_per_block(&self) -> usize {
        self.layout.bytes_per_block()
    }

    /// Writes keys and values `[slots, kv_heads, head_dim]` of one layer, rounded to f16; slot `i`
    /// takes row `i`. Errors: a length does not fit; a block or slot that does not exist.
    pub fn write(
        &mut self,
        layer: usize,
        slots: &[KvSlot],
        keys: &[f32],
        values: &[f32],
    ) -> Result<(), ShapeError> {
        let KvLayout { layers, kv_heads, head_dim, blocks } = self.layout;
        let width = kv_heads * head_dim;
        shape::at_most(OP, "layer", layers.saturating_sub(1), layer)?;
        shape::exactly(OP, "keys", slots.len() * width, keys.len())?;
        shape::exactly(OP, "values", slots.len() * width, values.len())?;
        for slot in slots {
            shape::at_most(OP, "block", blocks.saturating_sub(1), slot.block as usize)?;
            shape::at_most(OP, "slot", KV_BLOCK_TOKENS - 1, slot.slot)?;
        }
        let mut halves = vec![0u16; head_dim];
        for (row, slot) in slots.iter().enumerate() {
            for head in 0..kv_heads {
                let at = row * width + head * head_dim;
                let start = self.start(layer, slot.block, head);
                let tile = &mut self.halves[start..start + 2 * head_dim * KV_BLOCK_TOKENS];
                let (key_tile, value_tile) = tile.split_at_mut(head_dim * KV_BLOCK_TOKENS);
                simd::to_halves(self.cpu, &keys[at..at + head_dim], &mut halves);
                let column = key_tile[slot.slot..].iter_mut().step_by(KV_BLOCK_TOKENS);
                for (place, &key) in column.zip(&halves) {
                    *place = key;
                }
                let value_row = &mut value_tile[slot.slot * head_dim..][..head_dim];
                simd::to_halves(self.cpu, &values[at..at + head_dim], value_row);
            }
        }
        Ok(())
    }

    /// The keys and values of one layer, to read. Errors: no such layer.
    pub fn layer(&self, layer: usize) -> Result<KvLayer<'_>, ShapeError> {
        shape::at_most(OP, "layer", self.layout.layers.saturating_sub(1), layer)?;
        Ok(KvLayer { pool: self, layer })
    }

    fn start(&self, layer: usize, block: u32, head: usize) -> usize {
        let block = layer * self.layout.blocks + block as usize;
        block * self.layout.halves_per_layer_block()
            + head * 2 * self.layout.head_dim * KV_BLOCK_TOKENS
    }
}

/// The keys and values of one layer of a [`KvPool`].
#[derive(Clone, Copy, Debug)]
pub struct KvLayer<'a> {
    pool: &'a KvPool,
    layer: usize,
}

impl<'a> KvLayer<'a> {
    /// The size of the whole pool.
    pub fn layout(&self) -> &'a KvLayout {
        &self.pool.layout
    }

    /// Keys `[head_dim][16]` and values `[16][head_dim]` of a block and head, as f16 bits.
    pub(super) fn tile(&self, block: u32, head: usize) -> (&'a [u16], &'a [u16]) {
        let start = self.pool.start(self.layer, block, head);
        let half = self.pool.layout.head_dim * KV_BLOCK_TOKENS;
        self.pool.halves[start..start + 2 * half].split_at(half)
    }
}
