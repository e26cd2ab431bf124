//! A sequence as the scheduler sees it: tokens, of which some are computed.

use crate::kv::{BlockTable, KV_BLOCK_TOKENS, Prefix};

use super::Work;

/// Rows of logits one step may make for one prompt: 32 rows of 150,000 logits are 19 MB.
const PROMPT_ROWS_MAX: usize = 32;

/// A choice of a request; the order is the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId {
    /// Number of the request, counted up at admission.
    pub(crate) request: u64,
    /// Which of its answers.
    pub(crate) choice: u32,
}

/// A prompt and what was sampled after it.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    /// Every token known so far.
    pub(crate) tokens: Vec<u32>,
    /// Who may share its blocks.
    pub(crate) root: Prefix,
    /// Whether logits are wanted after every token: nothing may be found in the cache then, and a
    /// step processes few tokens, for each costs a row of logits.
    pub(crate) wants_prompt_rows: bool,
    /// Computed tokens from which on another choice of its request may start.
    pub(crate) shared: usize,
}

impl Sequence {
    /// A prompt of which nothing is computed. A further choice finds its full blocks in the cache.
    pub(crate) fn new(prompt: &[u32], root: Prefix) -> Self {
        let shared = prompt.len().saturating_sub(1) / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
        Self { tokens: prompt.to_vec(), root, wants_prompt_rows: false, shared }
    }

    /// A prompt after each of whose tokens logits are wanted.
    pub(crate) fn with_prompt_rows(prompt: &[u32], root: Prefix) -> Self {
        Self { wants_prompt_rows: true, shared: prompt.len(), ..Self::new(prompt, root) }
    }
}

/// A sequence that holds blocks for all its tokens, and for one more once it decodes.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) sequence: Sequence,
    /// Tokens whose K and V are in the blocks.
    pub(crate) computed: usize,
    pub(crate) table: BlockTable,
}

impl Running {
    /// Tokens still to be computed before the next can be sampled.
    pub(crate) fn remaining(&self) -> usize {
        self.sequence.tokens.len() - self.computed
    }

    /// Tokens the next step can process within `budget`.
    pub(crate) fn chunk(&self, budget: usize) -> usize {
        let chunk_max = if self.sequence.wants_prompt_rows { PROMPT_ROWS_MAX } else { budget };
        self.remaining().min(budget).min(chunk_max)
    }

    pub(crate) fn work(&self, sequence: SequenceId, tokens: usize) -> Work {
        let positions = self.computed..self.computed + tokens;
        let reaches_end = positions.end == self.sequence.tokens.len();
        Work { sequence, positions, reaches_end }
    }
}
