//! How the next token is chosen from a row of logits.
//!
//! logits → bias → penalties → masks → temperature → min_p → top_k → top_p → draw
//!
//! Log-probabilities are the model's own: of the logits before all that. Logits that are NaN count
//! as minus infinity.

mod adjust;
mod draw;
mod logprobs;
mod parameters;
mod random;
mod row;
mod rows;
mod select;
#[cfg(test)]
mod tests;
mod wide;

pub(crate) use adjust::{History, changes};
pub(crate) use draw::Draw;
pub use draw::Sampler;
pub(crate) use logprobs::token_logprobs;
pub(crate) use parameters::check_logprobs;
pub use parameters::{CHOICES_MAX, LOGPROBS_MAX, Sampling, SamplingError};
pub(crate) use rows::{NextToken, Wanted};
pub use rows::{RowSampling, SampledRow};
