//! Where the ranks of one replica must agree.

use std::error::Error;

use thiserror::Error as ThisError;

/// What a rank of a replica says to the others in a step. All tensor ranks of a stage call the same
/// methods in the same order with equal lengths; stages follow each other in a line.
pub trait Collective: Send {
    /// Replaces `values` by their sum over the tensor ranks of this stage; every rank gets the same
    /// bits.
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// Writes `mine` of each tensor rank of this stage into `all`, in the order of ranks; `all` is
    /// that many times as long.
    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CollectiveError>;

    /// Gives hidden states to the same tensor rank of the next stage.
    fn send_to_next_stage(&mut self, values: &[f32]) -> Result<(), CollectiveError>;

    /// Takes hidden states from the same tensor rank of the stage before; their number is known.
    fn receive_from_stage_before(&mut self, values: &mut [f32]) -> Result<(), CollectiveError>;
}

/// The ranks did not come together.
#[derive(Debug, ThisError)]
#[error("{doing} with the other ranks of the replica")]
pub struct CollectiveError {
    /// What was being done.
    pub doing: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// The collective of a replica of one rank: nothing happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SingleRank;

#[derive(Debug, ThisError)]
#[error("a replica of one rank has no other stage")]
struct NoOtherStage;

impl Collective for SingleRank {
    fn all_reduce_sum(&mut self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CollectiveError> {
        all.copy_from_slice(mine);
        Ok(())
    }

    fn send_to_next_stage(&mut self, _values: &[f32]) -> Result<(), CollectiveError> {
        Err(CollectiveError { doing: "sending hidden states", source: Box::new(NoOtherStage) })
    }

    fn receive_from_stage_before(&mut self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        Err(CollectiveError { doing: "receiving hidden states", source: Box::new(NoOtherStage) })
    }
}
