//! Who may join the ranks of a replica, decided on what they say of themselves.

use naru_engine::Parallelism;
use naru_protocol::links::v1::{Hello, Purpose};

/// Of the messages, frames and plans of this program. Others are refused: members of one replica
/// are of one image.
const PROTOCOL: u32 = 2;

/// What a rank is, and what it expects of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    /// Namespace and name of the replica, or whatever else tells it from others.
    pub(crate) replica: String,
    pub(crate) parallelism: Parallelism,
    pub(crate) rank: usize,
    /// SHA-256 over the model's description and samples of its weights.
    pub(crate) model: [u8; 32],
    /// Of keys and values: a plan's block numbers mean the same on every rank.
    pub(crate) kv_blocks: u64,
}

/// Whoever dialled, found to be one of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guest {
    /// A rank that will be led, and the last generation that it has seen.
    Led { rank: usize, generation: u64 },
    /// A higher rank that brings its connection for values, under a generation.
    Peer { rank: usize, generation: u64 },
}

/// Why somebody is not one of us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("rank {rank} speaks version {theirs} of the links' protocol, here it is {PROTOCOL}")]
    Protocol { rank: u32, theirs: u32 },
    #[error("rank {rank} is of the replica `{theirs}`, this is `{ours}`")]
    Replica { rank: u32, theirs: String, ours: String },
    #[error(
        "rank {rank} belongs to a group of tensor {} × pipeline {}, this one is {} × {}",
        theirs.0, theirs.1, ours.tensor(), ours.pipeline()
    )]
    World { rank: u32, theirs: (u32, u32), ours: Parallelism },
    #[error("rank {rank} has other weights: fingerprint {theirs}, here {ours}")]
    Model { rank: u32, theirs: String, ours: String },
    #[error(
        "rank {rank} has {theirs} blocks of keys and values, here are {ours}: start all ranks with \
         the same limits"
    )]
    KvBlocks { rank: u32, theirs: u64, ours: u64 },
    #[error("rank {rank} is not one of the {ranks} ranks, or is this one")]
    Rank { rank: u32, ranks: usize },
    #[error("rank {rank} asks rank {ours} to lead, and rank 0 does")]
    Leader { rank: u32, ours: usize },
    #[error("rank {rank} connects to the higher rank {ours}; the higher rank connects")]
    Direction { rank: u32, ours: usize },
    #[error("rank {rank} does not say what its connection is for")]
    Purpose { rank: u32 },
}

impl Party {
    /// What this rank says when it dials another.
    pub(super) fn hello(&self, purpose: Purpose, generation: u64) -> Hello {
        Hello {
            protocol: PROTOCOL,
            purpose: purpose.into(),
            replica: self.replica.clone(),
            tensor: self.parallelism.tensor() as u32,
            pipeline: self.parallelism.pipeline() as u32,
            rank: self.rank as u32,
            model: self.model.to_vec(),
            generation,
            kv_blocks: self.kv_blocks,
        }
    }

    /// Who it is that said `hello`. Errors: nobody who may join this rank, and why.
    pub(super) fn admit(&self, hello: &Hello) -> Result<Guest, Refusal> {
        let ours = self.parallelism;
        let Hello { rank, generation, .. } = *hello;
        if hello.protocol != PROTOCOL {
            return Err(Refusal::Protocol { rank, theirs: hello.protocol });
        }
        if hello.replica != self.replica {
            let (theirs, ours) = (hello.replica.clone(), self.replica.clone());
            return Err(Refusal::Replica { rank, theirs, ours });
        }
        if (hello.tensor as usize, hello.pipeline as usize) != (ours.tensor(), ours.pipeline()) {
            return Err(Refusal::World { rank, theirs: (hello.tensor, hello.pipeline), ours });
        }
        if hello.model != self.model {
            let (theirs, ours) = (short(&hello.model), short(&self.model));
            return Err(Refusal::Model { rank, theirs, ours });
        }
        if hello.kv_blocks != self.kv_blocks {
            let (theirs, ours) = (hello.kv_blocks, self.kv_blocks);
            return Err(Refusal::KvBlocks { rank, theirs, ours });
        }
        let other = rank as usize;
        if other >= ours.ranks() || other == self.rank {
            return Err(Refusal::Rank { rank, ranks: ours.ranks() });
        }
        match hello.purpose() {
            Purpose::Unspecified => Err(Refusal::Purpose { rank }),
            Purpose::Control if self.rank == 0 => Ok(Guest::Led { rank: other, generation }),
            Purpose::Control => Err(Refusal::Leader { rank, ours: self.rank }),
            Purpose::Values if other > self.rank => Ok(Guest::Peer { rank: other, generation }),
            Purpose::Values => Err(Refusal::Direction { rank, ours: self.rank }),
        }
    }
}

/// The first bytes of a digest, enough to tell two apart.
fn short(digest: &[u8]) -> String {
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(rank: usize) -> Party {
        let parallelism = Parallelism::new(2, 2).unwrap();
        let replica = "serving/qwen-0".to_owned();
        Party { replica, parallelism, rank, model: [7; 32], kv_blocks: 100 }
    }

    #[track_caller]
    fn check(why: &str, to: usize, hello: Hello, expected: Result<Guest, &str>) {
        let found = party(to).admit(&hello).map_err(|refusal| refusal.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{why}");
    }

    #[test]
    fn who_may_join() {
        let control = || party(1).hello(Purpose::Control, 3);
        let values = || party(1).hello(Purpose::Values, 3);
        let led = Guest::Led { rank: 1, generation: 3 };
        check("rank 0 leads", 0, control(), Ok(led));
        let peer = Guest::Peer { rank: 1, generation: 3 };
        check("the higher rank connects", 0, values(), Ok(peer));
        let why = "rank 1 asks rank 3 to lead, and rank 0 does";
        check("nobody else leads", 3, control(), Err(why));
        let why = "rank 1 connects to the higher rank 3; the higher rank connects";
        check("the lower rank waits", 3, values(), Err(why));
        let hello = Hello { protocol: 3, ..values() };
        let why = "rank 1 speaks version 3 of the links' protocol, here it is 2";
        check("another program", 0, hello, Err(why));
        let hello = Hello { replica: "serving/qwen-1".to_owned(), ..values() };
        let why = "rank 1 is of the replica `serving/qwen-1`, this is `serving/qwen-0`";
        check("another replica", 0, hello, Err(why));
        let hello = Hello { tensor: 4, ..values() };
        let why = "rank 1 belongs to a group of tensor 4 × pipeline 2, this one is 2 × 2";
        check("another world", 0, hello, Err(why));
        let hello = Hello { model: vec![8; 32], ..values() };
        let why = "rank 1 has other weights: fingerprint 080808080808, here 070707070707";
        check("other weights", 0, hello, Err(why));
        let hello = Hello { model: vec![7; 31], ..values() };
        let why = "rank 1 has other weights: fingerprint 070707070707, here 070707070707";
        check("half a fingerprint", 0, hello, Err(why));
        let hello = Hello { kv_blocks: 99, ..values() };
        let why = "rank 1 has 99 blocks of keys and values, here are 100: start all ranks with \
                   the same limits";
        check("other limits", 0, hello, Err(why));
        let hello = Hello { rank: 4, ..values() };
        check("outside", 0, hello, Err("rank 4 is not one of the 4 ranks, or is this one"));
        let hello = Hello { rank: u32::MAX, ..values() };
        let why = "rank 4294967295 is not one of the 4 ranks, or is this one";
        check("far outside", 0, hello, Err(why));
        let hello = Hello { rank: 0, ..values() };
        check("itself", 0, hello, Err("rank 0 is not one of the 4 ranks, or is this one"));
        let hello = Hello { purpose: 9, ..values() };
        check("no purpose", 0, hello, Err("rank 1 does not say what its connection is for"));
    }
}
