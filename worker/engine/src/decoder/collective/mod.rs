//! Where the ranks of one replica meet.
//!
//! ```text
//!  rank 0 ── broadcast ──▶ every rank          the plan of a step
//!  stage  ◀─ all_reduce ─▶ stage               what each of its ranks has of a sum, twice a layer
//!  rank   ── send ───────▶ rank of next stage  hidden states of a micro-batch
//!  last stage ── send ───▶ rank 0              each rank's columns of the logits
//! ```

mod threads;

use std::error::Error;
use std::time::Duration;

use thiserror::Error as ThisError;

pub use threads::{Clock, ThreadCollective};

/// Messages on their way from one rank to another: one for each micro-batch of a step.
pub const MESSAGES_MAX: usize = 64;

/// What one rank says to the others. Ranks are numbered as in
/// [`Parallelism`](super::Parallelism); each rank has its own value.
///
/// All tensor ranks of a stage call [`all_reduce_sum`](Self::all_reduce_sum) equally often with
/// equal lengths; each [`send`](Self::send) to a rank meets the next
/// [`receive`](Self::receive) there from this one, with the same length. An implementation may
/// therefore fix the order of everything on a connection, and needs no tags.
///
/// No call waits for ever on a rank that is lost: once a rank is known to be gone, has called
/// [`abort`](Self::abort) or has dropped its value, every call that needs it returns an error that
/// names it. Nothing waits on a timer for a rank that is there. How long a silent rank counts as
/// there is the implementation's to decide; in [`receive_broadcast`](Self::receive_broadcast) a
/// rank 0 that lives and has nothing to do is silent for as long as it likes.
///
/// After an error this value is of no further use, nor is that of any other rank: a replica whose
/// ranks have parted begins anew.
pub trait Collective: Send {
    /// Rank 0 gives `message` to every other rank; it need not have arrived. May be called by rank
    /// 0 alone.
    fn broadcast(&mut self, message: &[u8]) -> Result<(), CollectiveError>;

    /// Replaces `message` by the next that rank 0 broadcasts, and waits for it. May be called by
    /// every rank but 0.
    fn receive_broadcast(&mut self, message: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// Replaces `values` by their sum over the tensor ranks of this stage, added in the order of
    /// ranks: every rank gets the same bits, and the same bits every time.
    fn all_reduce_sum(&mut self, values: &mut [f64]) -> Result<(), CollectiveError>;

    /// The same for floats; `wide` is memory for it.
    fn all_reduce_floats(
        &mut self,
        values: &mut [f32],
        wide: &mut Vec<f64>,
    ) -> Result<(), CollectiveError> {
        wide.clear();
        wide.extend(values.iter().map(|value| f64::from(*value)));
        self.all_reduce_sum(wide)?;
        narrow(wide, values);
        Ok(())
    }

    /// Gives `values` to rank `to`, and leaves any other buffer, of any length, in their place, so
    /// that nothing need be copied. Does not wait for the receiver: several messages may be on
    /// their way, at most [`MESSAGES_MAX`] to a rank. No values at all are a message too.
    fn send(&mut self, to: usize, values: &mut Vec<f32>) -> Result<(), CollectiveError>;

    /// Replaces `values` by the next message of rank `from`, which has as many values, and waits
    /// for it.
    fn receive(&mut self, from: usize, values: &mut Vec<f32>) -> Result<(), CollectiveError>;

    /// Tells the others, as far as they can be reached, that this rank cannot go on, and why. To
    /// be called as often as one likes.
    fn abort(&mut self, reason: &str);

    /// What this rank's calls took since this was asked last, and starts anew.
    fn take_link_time(&mut self) -> LinkTime {
        LinkTime::default()
    }
}

/// Rounds sums to the floats that are left of them.
pub(super) fn narrow(wide: &[f64], values: &mut [f32]) {
    values.iter_mut().zip(wide).for_each(|(value, wide)| *value = *wide as f32);
}

/// What a step's meetings with other ranks took on one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkTime {
    /// The whole step so far: since its plan was sent or had come.
    pub step: Duration,
    /// Waiting for ranks that were not there yet. Waiting for a broadcast is idleness, and not in
    /// here.
    pub wait: Duration,
    /// Moving and adding what was there.
    pub link: Duration,
    /// Bytes of values that this rank gave to others.
    pub bytes: u64,
}

impl LinkTime {
    /// The rest of the step.
    pub fn compute(&self) -> Duration {
        self.step.saturating_sub(self.wait + self.link)
    }
}

/// A rank that could not be met.
#[derive(Debug, ThisError)]
#[error("rank {rank} is lost, found while {doing}")]
pub struct CollectiveError {
    /// The rank that is lost.
    pub rank: usize,
    /// What was being done.
    pub doing: &'static str,
    /// What is known of it.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// The collective of a replica of one rank: nothing happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SingleRank;

impl Collective for SingleRank {
    fn broadcast(&mut self, _message: &[u8]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn receive_broadcast(&mut self, _message: &mut Vec<u8>) -> Result<(), CollectiveError> {
        Err(no_other(0, "receiving a plan"))
    }

    fn all_reduce_sum(&mut self, _values: &mut [f64]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn send(&mut self, to: usize, _values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        Err(no_other(to, "sending values"))
    }

    fn receive(&mut self, from: usize, _values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        Err(no_other(from, "receiving values"))
    }

    fn abort(&mut self, _reason: &str) {}
}

fn no_other(rank: usize, doing: &'static str) -> CollectiveError {
    CollectiveError { rank, doing, source: "a replica of one rank has no other".into() }
}
