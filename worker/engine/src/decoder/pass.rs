//! One piece of a step on its way through one rank's part of the model, whatever computes it.
//!
//! ```text
//! first stage: embed ─ Σ ranks     ┌ block ─ Σ ranks ─ add ┐      last stage: logits
//! others: receive from the one ────┤  two of them a layer  ├───── others: send to the next
//!         before                   └───────────────────────┘
//! ```
//!
//! The order of this is here, and so is where ranks meet; how each part of it is done, and where
//! its values lie meanwhile, is the processor's or the device's.

use super::{Collective, Shard, StepError};

/// Blocks of a layer: attention, and behind it the feed-forward block.
pub(super) const BLOCKS_PER_LAYER: usize = 2;

/// A piece of a step on one rank. Blocks are counted from the shard's first layer on: block
/// `2 layer` is attention, block `2 layer + 1` feed-forward.
pub(super) trait Pass {
    /// Makes the stream of the rows that this rank has of the embedding table; zeros elsewhere.
    fn embed(&mut self) -> Result<(), StepError>;

    /// Replaces the stream by its sum over the ranks of the stage.
    fn sum_stream(&mut self, collective: &mut dyn Collective) -> Result<(), StepError>;

    /// Makes the stream what rank `from` sends.
    fn receive_stream(
        &mut self,
        from: usize,
        collective: &mut dyn Collective,
    ) -> Result<(), StepError>;

    /// Computes what this rank has of a block's result, which is not in the stream yet.
    fn block(&mut self, block: usize) -> Result<(), StepError>;

    /// Replaces the result of the last block by its sum over the ranks of the stage.
    fn sum_block(&mut self, collective: &mut dyn Collective) -> Result<(), StepError>;

    /// Adds the block's result to the stream, with its bias, normed and scaled as the model has it.
    fn add_block(&mut self, block: usize) -> Result<(), StepError>;

    /// Makes logits of the rows that are wanted, in this rank's columns.
    fn logits(&mut self) -> Result<(), StepError>;

    /// Sends the stream to rank `to`.
    fn send_stream(&mut self, to: usize, collective: &mut dyn Collective) -> Result<(), StepError>;
}

/// Takes `pass` through `shard`. Errors: something could not be computed, or the other ranks are
/// gone.
pub(super) fn run(
    pass: &mut dyn Pass,
    shard: &Shard,
    collective: &mut dyn Collective,
) -> Result<(), StepError> {
    let (rank, ranks) = (shard.rank(), shard.parallelism().tensor());
    if shard.is_first_stage() {
        pass.embed()?;
        // Each token's row is on one rank and zero on the others.
        if ranks > 1 {
            pass.sum_stream(collective)?;
        }
    } else {
        pass.receive_stream(rank - ranks, collective)?;
    }
    for block in 0..BLOCKS_PER_LAYER * shard.layers().len() {
        pass.block(block)?;
        if ranks > 1 {
            pass.sum_block(collective)?;
        }
        pass.add_block(block)?;
    }
    if shard.is_last_stage() { pass.logits() } else { pass.send_stream(rank + ranks, collective) }
}
