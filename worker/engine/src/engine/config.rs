//! What an engine is allowed to use, and what it reports of itself.

/// The bounds an engine works within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Sequences (one per choice) that may hold KV blocks at once.
    pub max_sequences: usize,
    /// Tokens one step may process; at least `max_sequences`, so that prefill cannot be starved.
    pub max_batch_tokens: usize,
    /// Tokens one sequence may hold, prompt and output together.
    pub max_context_tokens: usize,
    /// Blocks of `KV_BLOCK_TOKENS` tokens in the KV cache.
    pub kv_blocks: usize,
    /// Whether requests may reuse what earlier ones computed.
    pub prefix_cache: PrefixCache,
}

/// Who may reuse the KV blocks of a common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixCache {
    /// Only the choices of one request, among themselves.
    Off,
    /// Requests of one tenant (equal `tenant_salt`).
    Tenant,
}

/// A configuration no engine can work within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nothing could ever run.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A full set of decoding sequences would leave no room for prefill.
    #[error(
        "max_batch_tokens ({max_batch_tokens}) must be at least max_sequences ({max_sequences})"
    )]
    BatchBelowSequences {
        /// As configured.
        max_batch_tokens: usize,
        /// As configured.
        max_sequences: usize,
    },
}

impl EngineConfig {
    /// Errors: a bound that would let nothing run or starve prefill.
    pub fn check(&self) -> Result<(), ConfigError> {
        let counts = [
            ("max_sequences", self.max_sequences),
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_context_tokens", self.max_context_tokens),
            ("kv_blocks", self.kv_blocks),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(ConfigError::Zero(name));
        }
        let &Self { max_batch_tokens, max_sequences, .. } = self;
        if max_batch_tokens < max_sequences {
            return Err(ConfigError::BatchBelowSequences { max_batch_tokens, max_sequences });
        }
        Ok(())
    }
}

/// What an engine is doing and has done. Totals only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Choices holding KV blocks.
    pub running: usize,
    /// Choices waiting for their first step, or for another after a preemption.
    pub waiting: usize,
    /// KV blocks referenced by running choices.
    pub kv_blocks_used: usize,
    /// KV blocks referenced by nobody whose content may still be reused.
    pub kv_blocks_cached: usize,
    /// KV blocks there are.
    pub kv_blocks_total: usize,
    /// Forward passes done.
    pub steps_total: u64,
    /// Forward passes that failed.
    pub steps_failed_total: u64,
    /// Tokens in the last forward pass.
    pub batch_tokens: usize,
    /// Sequences in the last forward pass.
    pub batch_sequences: usize,
    /// Times a running choice lost its blocks to an older one.
    pub preemptions_total: u64,
    /// Steps that processed a part of a sequence's prompt, not reaching its end.
    pub partial_prefills_total: u64,
    /// Prompt tokens looked up in the prefix cache when first scheduled.
    pub prefix_query_tokens_total: u64,
    /// Of those, found.
    pub prefix_hit_tokens_total: u64,
    /// Prompt tokens of requests whose prompt was computed or found in the cache.
    pub prompt_tokens_total: u64,
    /// Tokens sampled.
    pub generation_tokens_total: u64,
}
