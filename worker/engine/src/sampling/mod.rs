//! How the next token is chosen from a row of logits.
//!
//! logits → bias → penalties → masks → temperature → min_p → top_k → top_p → draw

mod parameters;

pub use parameters::{CHOICES_MAX, LOGPROBS_MAX, Sampling, SamplingError};
