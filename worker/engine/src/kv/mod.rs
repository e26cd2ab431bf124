//! KV cache: which block holds which tokens, who uses it, and when it may be reused.

/// Tokens whose keys and values one block holds.
pub const KV_BLOCK_TOKENS: usize = 16;
