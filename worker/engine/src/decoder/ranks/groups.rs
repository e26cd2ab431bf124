//! Devices that sum among themselves: whether all of a replica can, and where they meet.
//!
//! ```text
//! every other rank ── send ───────▶ rank 0      whether its device can join a group
//! every other rank ◀─ broadcast ─── rank 0      a name for each stage's group, or nothing
//! ```
//!
//! A group takes the place of the sums over the host and of nothing else: plans, hidden states
//! between stages and logits go on as they did.

use naru_kernels::cuda::{Device, GpuError, GroupId};

use super::super::{Collective, StepError};
use super::RankDecoder;

/// On every rank but 0, once the ranks have met: says whether its device can join a group.
pub(super) fn answer(
    decoder: &mut dyn RankDecoder,
    collective: &mut dyn Collective,
) -> Result<(), StepError> {
    if decoder.shard().parallelism().tensor() == 1 {
        return Ok(());
    }
    let answer = f32::from(u8::from(has_groups(decoder)));
    Ok(collective.send(0, &mut vec![answer])?)
}

/// On rank 0, before the first step of ranks that have met: the names of the groups, one for each
/// stage; none if a rank cannot join. None: nobody asks.
pub(super) fn ask(
    decoder: &mut dyn RankDecoder,
    collective: &mut dyn Collective,
) -> Result<Option<Vec<u8>>, StepError> {
    let parallelism = decoder.shard().parallelism();
    if parallelism.tensor() == 1 {
        return Ok(None);
    }
    let mut all_can = has_groups(decoder);
    for rank in 1..parallelism.ranks() {
        let mut answer = vec![0.0];
        collective.receive(rank, &mut answer)?;
        all_can &= answer == [1.0];
    }
    match decoder.device().filter(|_| all_can) {
        Some(device) => Ok(Some(new_groups(device, parallelism.pipeline())?)),
        None => Ok(Some(Vec::new())),
    }
}

/// On every rank: joins the group of its stage, or leaves the one of an earlier meeting.
pub(super) fn join(decoder: &mut dyn RankDecoder, names: &[u8]) -> Result<(), StepError> {
    let (parallelism, rank) = (decoder.shard().parallelism(), decoder.shard().rank());
    let Some(device) = decoder.device() else { return Ok(()) };
    match names.as_chunks().0.get(parallelism.stage(rank)) {
        Some(name) => {
            let (rank, ranks) = (parallelism.tensor_rank(rank), parallelism.tensor());
            device.join_group(&GroupId(*name), rank, ranks)?;
        }
        None => device.leave_group(),
    }
    Ok(())
}

fn has_groups(decoder: &mut dyn RankDecoder) -> bool {
    decoder.device().is_some_and(|device| device.has_groups())
}

/// The names of so many groups, one behind the other.
fn new_groups(device: &mut dyn Device, count: usize) -> Result<Vec<u8>, GpuError> {
    let mut names = Vec::with_capacity(count * GroupId::BYTES);
    for _ in 0..count {
        names.extend(device.new_group()?.0);
    }
    Ok(names)
}
