//! What is wanted of each row of a step's logits, and what came of it.

use crate::event::TokenLogprobs;

use super::{Draw, History, Sampler, Sampling, token_logprobs};

/// What is wanted of one row of logits. The host's [`Sampler`] reads it, and a device's.
#[derive(Debug, Clone, Copy)]
pub struct RowSampling<'a>(pub(crate) Wanted<'a>);

/// Which of the things that a row may be wanted for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// The row has nobody left, or nobody who wants a token.
    Nothing,
    /// A token that is known already, with its log-probability and those of the `top` likeliest.
    Known { token: u32, top: u32 },
    /// The next token.
    Next(NextToken<'a>),
}

/// How a token is drawn, and what is to be known of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NextToken<'a> {
    pub(crate) sampling: &'a Sampling,
    pub(crate) history: &'a History,
    /// Never drawn.
    pub(crate) masked: &'a [u32],
    pub(crate) draw: Draw,
    /// Some(k): its log-probability, and those of the k likeliest.
    pub(crate) logprobs: Option<u32>,
}

/// What came of one row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampledRow {
    /// None: no token has a logit above -∞, or none was wanted.
    pub token: Option<u32>,
    /// Where they were wanted.
    pub logprobs: Option<TokenLogprobs>,
}

impl Sampler {
    /// What is wanted of each row of `logits`, which must be `[rows, vocab_size]`. Errors: they
    /// are not.
    pub fn sample_rows(
        &mut self,
        logits: &[f32],
        vocab_size: usize,
        rows: &[RowSampling<'_>],
    ) -> Result<Vec<SampledRow>, String> {
        let expected = rows.len() * vocab_size;
        if logits.len() != expected {
            return Err(format!("{} logits came where {expected} are", logits.len()));
        }
        let logits = logits.chunks(vocab_size.max(1));
        Ok(rows.iter().zip(logits).map(|(row, logits)| self.sample_row(logits, row)).collect())
    }

    fn sample_row(&mut self, logits: &[f32], row: &RowSampling<'_>) -> SampledRow {
        let (token, top) = match row.0 {
            Wanted::Nothing => return SampledRow::default(),
            Wanted::Known { token, top } => (Some(token), Some(top)),
            Wanted::Next(next) => {
                let NextToken { sampling, history, masked, draw, logprobs } = next;
                (self.sample(logits, sampling, history, masked, draw), logprobs)
            }
        };
        let wanted = token.zip(top);
        let logprobs = wanted.map(|(token, top)| token_logprobs(logits, token, top as usize));
        SampledRow { token, logprobs }
    }
}
