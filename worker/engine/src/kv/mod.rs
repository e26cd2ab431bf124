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
#[cfg(test)]
mod tests;

pub use naru_kernels::KV_BLOCK_TOKENS;

pub(crate) use pool::{BlockPool, Prefix};
pub(crate) use table::BlockTable;

/// Blocks that `tokens` tokens need.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(KV_BLOCK_TOKENS)
}
