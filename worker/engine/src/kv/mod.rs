//! KV cache: which block holds which tokens, who uses it, and when it may be reused.
//! Knows nothing of requests or models; the scheduler asks, this answers.
//!
//! A block is at any time exactly one of
//! ```text
//! free ──take──▶ referenced ──release──▶ free         (content of no use to others)
//!                    ▲  └─────release──▶ cached ──evict──▶ free
//!                    └──────share──────────┘
//! ```

mod pool;
mod table;

pub(crate) use pool::{BlockPool, Prefix};
pub(crate) use table::BlockTable;

/// Tokens whose keys and values one block holds.
pub const KV_BLOCK_TOKENS: usize = 16;

/// Blocks that `tokens` tokens need.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(KV_BLOCK_TOKENS)
}
