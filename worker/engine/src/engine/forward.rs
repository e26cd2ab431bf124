//! The two things an engine is given: a model that turns tokens into logits, and the meaning of
//! its tokens.

use std::error::Error;
use std::ops::Range;

use crate::decoder::LinkTime;
use crate::sampling::{RowSampling, SampledRow, Sampler};

/// The tokens of one step, of many sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of every span, one after another.
    pub tokens: Vec<u32>,
    /// Which tokens belong together.
    pub spans: Vec<Span>,
    /// Indices into `tokens` after which logits are wanted, ascending.
    pub logit_rows: Vec<usize>,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where in `Batch::tokens`.
    pub tokens: Range<usize>,
    /// Position in its sequence of the first of them.
    pub position: usize,
    /// The whole sequence's KV blocks, `KV_BLOCK_TOKENS` positions each, these tokens' included.
    pub blocks: Vec<u32>,
}

/// What a forward pass takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepCost {
    /// From its start to its end.
    pub seconds: f64,
    /// Drawn meanwhile, by every device of the model together.
    pub watts: f64,
}

/// A model with its KV cache.
///
/// What a span writes and returns must depend on its sequence's tokens alone: not on the other
/// spans, nor on where the sequence was cut into spans. On a GPU this is not so yet of the last
/// bits of products.
pub trait Forward: Send {
    /// Logits per row.
    fn vocab_size(&self) -> usize;

    /// Computes the batch, writing K and V of every token into its span's blocks.
    /// Returns logits [logit_rows, vocab_size]. Errors: the step as a whole failed; its spans'
    /// tokens count as not computed.
    fn forward(&mut self, batch: &Batch) -> Result<&[f32], Box<dyn Error + Send + Sync>>;

    /// Computes the batch, and what is wanted of each of its logit rows. A backend that samples
    /// where the logits lie has a method of its own; `sampler` is the host's. What comes of a row
    /// must depend on its logits and on what is wanted of it alone. Errors: as `forward`.
    fn forward_and_sample(
        &mut self,
        batch: &Batch,
        rows: &[RowSampling<'_>],
        sampler: &mut Sampler,
    ) -> Result<Vec<SampledRow>, Box<dyn Error + Send + Sync>> {
        let vocab_size = self.vocab_size();
        Ok(sampler.sample_rows(self.forward(batch)?, vocab_size, rows)?)
    }

    /// What the last forward pass would have cost. None: it was a real one, and its cost is what
    /// was measured.
    fn simulated_cost(&self) -> Option<StepCost> {
        None
    }

    /// What the last forward pass took in meeting the other ranks of its replica. None: there are
    /// none.
    fn link_time(&self) -> Option<LinkTime> {
        None
    }
}

/// The text side of a vocabulary, as far as streaming needs it.
pub trait Vocabulary: Send + Sync {
    /// The bytes a token stands for; empty for an id the tokenizer does not know (a model may have
    /// more rows than its tokenizer has tokens).
    fn token_bytes(&self, id: u32) -> &[u8];
    /// Whether a token is a control token, left out of plain text.
    fn is_special(&self, id: u32) -> bool;
    /// Tokens by which the model ends its answer.
    fn eos_ids(&self) -> &[u32];
}
