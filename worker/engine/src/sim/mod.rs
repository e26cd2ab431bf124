//! A model that only pretends to compute, for tests of everything above the forward pass.
//!
//! It stands behind the same [`Forward`](crate::Forward) as the decoder, so that admission,
//! chunked prefill, the paged KV cache, preemption, prefix reuse and sampling are the real ones:
//!
//! ```text
//! text → tokens (text.rs) → the engine → batch → logits (model.rs) → tokens → text
//!                                          └──→ seconds and watts (profile.rs)
//! ```

mod model;
mod profile;
#[cfg(test)]
mod tests;
mod text;

pub use model::SimModel;
pub use profile::{SIM_PROFILES, SimProfile};
