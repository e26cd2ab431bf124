//! Into how many ranks a replica is cut, and how many members hold them.

use std::num::NonZeroU32;

/// Most ranks of one replica; the CRD's rules state the same number.
const RANKS_MAX: u32 = 1024;

/// How a replica is cut: `tensor` ranks share each layer, `pipeline` stages share the layers. Each
/// member holds the same number of ranks, one for each of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallelism {
    tensor: NonZeroU32,
    pipeline: NonZeroU32,
    devices_per_member: NonZeroU32,
}

/// Why a replica cannot be cut so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParallelism {
    /// One of the numbers is zero, or there would be too many ranks.
    #[error("tensor {tensor}, pipeline {pipeline}: each is at least 1, both together {RANKS_MAX}")]
    Ranks {
        /// Ranks of a stage.
        tensor: u32,
        /// Stages.
        pipeline: u32,
    },
    /// Members would hold different numbers of ranks.
    #[error("devicesPerMember {devices_per_member} does not divide {ranks} ranks")]
    Members {
        /// Ranks in all.
        ranks: u32,
        /// Ranks of each member.
        devices_per_member: u32,
    },
}

impl Default for Parallelism {
    fn default() -> Self {
        let one = NonZeroU32::MIN;
        Self { tensor: one, pipeline: one, devices_per_member: one }
    }
}

impl Parallelism {
    /// Errors: too few or too many ranks, or members that would hold different numbers of them.
    pub fn new(
        tensor: u32,
        pipeline: u32,
        devices_per_member: u32,
    ) -> Result<Self, InvalidParallelism> {
        let ranks = tensor.checked_mul(pipeline).filter(|ranks| (1..=RANKS_MAX).contains(ranks));
        let both = NonZeroU32::new(tensor).zip(NonZeroU32::new(pipeline)).zip(ranks);
        let Some(((tensor, pipeline), ranks)) = both else {
            return Err(InvalidParallelism::Ranks { tensor, pipeline });
        };
        match NonZeroU32::new(devices_per_member) {
            Some(each) if ranks.is_multiple_of(each.get()) => {
                Ok(Self { tensor, pipeline, devices_per_member: each })
            }
            _ => Err(InvalidParallelism::Members { ranks, devices_per_member }),
        }
    }

    /// Ranks of a stage.
    pub fn tensor(self) -> u32 {
        self.tensor.get()
    }

    /// Stages.
    pub fn pipeline(self) -> u32 {
        self.pipeline.get()
    }

    /// Ranks that each member holds.
    pub fn devices_per_member(self) -> u32 {
        self.devices_per_member.get()
    }

    /// Ranks, and so devices, of a replica.
    pub fn ranks(self) -> u32 {
        self.tensor.get() * self.pipeline.get()
    }

    /// Members of a replica.
    pub fn members(self) -> u32 {
        self.ranks() / self.devices_per_member
    }

    /// The ranks that a member holds, as people name them: `rank 2`, `ranks 4-7`.
    pub fn ranks_of(self, member: u32) -> String {
        let each = self.devices_per_member.get();
        let first = member * each;
        match each {
            1 => format!("rank {first}"),
            _ => format!("ranks {first}-{}", first + each - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fact: &str, numbers: [u32; 3], members: Result<u32, &str>) {
        let [tensor, pipeline, each] = numbers;
        let parsed = Parallelism::new(tensor, pipeline, each);
        let members = members.map_err(str::to_owned);
        assert_eq!(parsed.map(Parallelism::members).map_err(|e| e.to_string()), members, "{fact}");
    }

    #[test]
    fn members() {
        check("one rank", [1, 1, 1], Ok(1));
        check("one each", [2, 2, 1], Ok(4));
        check("two each", [2, 2, 2], Ok(2));
        check("all in one", [8, 1, 8], Ok(1));
        let none = "tensor 0, pipeline 1: each is at least 1, both together 1024";
        check("no rank", [0, 1, 1], Err(none));
        let many = "tensor 1024, pipeline 2: each is at least 1, both together 1024";
        check("too many", [1024, 2, 1], Err(many));
        check("a remainder", [3, 1, 2], Err("devicesPerMember 2 does not divide 3 ranks"));
        check("none each", [3, 1, 0], Err("devicesPerMember 0 does not divide 3 ranks"));
        let most = Parallelism::new(u32::MAX, u32::MAX, 1);
        assert!(most.is_err(), "no sum is too large to be refused");
    }

    #[test]
    fn ranks_of_members() {
        let two = Parallelism::new(4, 1, 1).unwrap();
        assert_eq!(two.ranks_of(3), "rank 3");
        let four = Parallelism::new(4, 2, 4).unwrap();
        assert_eq!(four.ranks_of(1), "ranks 4-7");
    }
}
