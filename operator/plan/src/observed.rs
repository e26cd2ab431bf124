//! What runs: the replicas of one model deployment as a world last saw them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::backoff::Failures;
use crate::condition::Reason;
use crate::deployment::Revision;
use crate::units::{Bytes, Moment};

/// The number of a replica within its deployment; free again once the replica is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u32);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything a world saw of one deployment at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The replicas that exist, in any order.
    pub replicas: Vec<Replica>,
    /// Memory promised to nobody yet; `None`: the world does not count it.
    pub memory_free: Option<Bytes>,
}

/// One replica as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Which one.
    pub id: ReplicaId,
    /// The template it was made from.
    pub revision: Revision,
    /// What it is doing.
    pub phase: Phase,
    /// When it was made.
    pub created: Moment,
    /// Since when it answers without a break; `None`: it does not.
    pub ready_since: Option<Moment>,
    /// When it was told to drain, if it was; it is not restarted any more.
    pub drain_since: Option<Moment>,
    /// Whether it has been Ready at any time, through all its restarts.
    pub has_served: bool,
    /// How often it failed in a row.
    pub failures: Failures,
    /// The place where it runs is being cleared: another one has to take over.
    pub displaced: bool,
}

/// What a replica is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is wished and not there: its world has not been able to start its worker.
    Pending {
        /// What it waits for.
        why: PendingReason,
    },
    /// It runs, but has said nothing since then.
    Silent {
        /// The last word from it, or its start.
        since: Moment,
    },
    /// It is fetching weights.
    Fetching {
        /// Bytes that have arrived.
        done: Bytes,
        /// Bytes in all; `None`: the source does not say.
        total: Option<Bytes>,
    },
    /// It has the weights and is loading them.
    Loading,
    /// Its members are there, and their ranks have not met, or have parted.
    Apart {
        /// Which rank was lost, where it ran, and its last words; `None`: none was, it begins.
        lost: Option<String>,
    },
    /// It answers requests.
    Ready,
    /// It does not run.
    Stopped {
        /// When it was seen to have stopped.
        at: Moment,
        /// Why.
        failure: WorkerFailure,
    },
}

/// Why a worker has not been started yet. Words are the world's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingReason {
    /// Nothing is wrong so far: it is about to be given a place and started there.
    Placing,
    /// No place has room for it, or none that it may use.
    Unschedulable(String),
    /// The program of the worker cannot be fetched.
    ImageMissing(String),
    /// The share that its namespace has of the cluster is used up.
    QuotaExceeded(String),
    /// The world's own rules refuse it.
    Refused(String),
    /// Something it is to be given (a volume, a secret) does not exist or cannot be attached.
    MountMissing(String),
}

impl PendingReason {
    /// The reason that conditions give for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Placing => Reason::Starting,
            Self::Unschedulable(_) => Reason::Unschedulable,
            Self::ImageMissing(_) => Reason::ImageMissing,
            Self::QuotaExceeded(_) => Reason::QuotaExceeded,
            Self::Refused(_) => Reason::Refused,
            Self::MountMissing(_) => Reason::MountMissing,
        }
    }
}

impl fmt::Display for PendingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Placing => f.write_str("it is about to be placed"),
            Self::Unschedulable(words)
            | Self::ImageMissing(words)
            | Self::QuotaExceeded(words)
            | Self::Refused(words)
            | Self::MountMissing(words) => f.write_str(words),
        }
    }
}

/// What is wrong with weights: each is put right in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightsFault {
    /// They are not there, or are none that a worker can use.
    Missing,
    /// Whoever has them does not know us, or does not let us have them.
    Unauthorized,
    /// Whoever has them does not answer, or not as he should.
    Unreachable,
    /// They are other bytes than they should be.
    Corrupt,
    /// There is no room for them.
    NoSpace,
}

/// Why a worker stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerFailure {
    /// It could not get the weights, or refused them; its own words.
    Weights(WeightsFault, String),
    /// It refused its configuration; its own words.
    Config(String),
    /// It found no accelerator that it can compute on; its own words.
    NoUsableGpu(String),
    /// It wanted more memory than it may use and was killed for it.
    OutOfMemory(String),
    /// The machine it ran on is gone, or has not been heard of for too long.
    NodeLost(String),
    /// One of its members ended in any other way: which rank, where it ran, and how.
    Rank(String),
    /// It ended in any other way; the exit code or signal, in words.
    Ended(String),
}

impl fmt::Display for WorkerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights(_, words)
            | Self::Config(words)
            | Self::NoUsableGpu(words)
            | Self::OutOfMemory(words)
            | Self::NodeLost(words)
            | Self::Rank(words)
            | Self::Ended(words) => f.write_str(words),
        }
    }
}
