//! Conditions: what is true of a model deployment, why, and since when.

use serde::{Deserialize, Serialize};

use crate::units::Moment;

/// What a condition speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionKind {
    /// As many replicas answer as are wished.
    Ready,
    /// As many workers answer as are wished, all made from the present template.
    WorkersReady,
    /// The weights were fetched and accepted.
    WeightsAvailable,
    /// Every replica is of the present template.
    RolledOut,
    /// naru chooses the number of replicas itself.
    ScalingActive,
    /// As many replicas as are wished fit into the power budgets.
    PowerFits,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// It cannot be told yet.
    Unknown,
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// Every replica answers.
    Serving,
    /// Workers have been started and have not reported yet.
    Starting,
    /// Weights are being fetched.
    Fetching,
    /// Weights are being loaded.
    Loading,
    /// Replicas of an older template answer until their successors do.
    Replacing,
    /// Every replica is of the present template.
    RolledOut,
    /// Replicas of the present template take over one after another.
    RollingOut,
    /// The first replica of the present template has to prove itself before others follow.
    CanaryServing,
    /// A replica of the present template does not become ready, so no other is exchanged.
    RolloutStopped,
    /// A worker ended and is started again after a wait.
    BackingOff,
    /// A worker was killed for the memory it wanted, and is started again after a wait.
    OutOfMemoryKilled,
    /// The machine under a worker is gone; the worker is started on another.
    NodeLost,
    /// A rank of a replica is lost; the others wait for it.
    RankFailed,
    /// No machine has room for a worker, or none that it may use.
    Unschedulable,
    /// The program of the worker cannot be fetched.
    ImageMissing,
    /// Something a worker is to be given (a volume, a secret) does not exist.
    MountMissing,
    /// The namespace has used up its share of the cluster.
    QuotaExceeded,
    /// The cluster's own rules refuse the worker.
    Refused,
    /// A worker refused its configuration.
    ConfigRefused,
    /// A worker found no accelerator that it can compute on.
    NoUsableGpu,
    /// Weights are not where they should be, or are none that a worker can use.
    WeightsMissing,
    /// Whoever has the weights does not let the worker have them.
    WeightsUnauthorized,
    /// Whoever has the weights cannot be reached, or does not answer as he should.
    WeightsUnreachable,
    /// The weights are other bytes than they should be.
    WeightsCorrupt,
    /// The disk has no room for the weights.
    DiskFull,
    /// The weights are in place.
    WeightsLoaded,
    /// Starting one more replica would promise more memory than there is.
    InsufficientMemory,
    /// No replica is wished.
    ScaledToZero,
    /// Another model deployment serves one of the names.
    NameTaken,
    /// The wish itself has no meaning.
    SpecInvalid,
    /// The number of replicas follows the load.
    ScaledByLoad,
    /// The load asks for more replicas than the wish allows.
    LimitedByMaximum,
    /// All that is wished fits into the power budgets.
    WithinBudget,
    /// The power budgets have no room for another replica.
    PowerBudgetFull,
    /// A power budget is too small for a single replica.
    PowerInfeasible,
    /// The power budget does not exist, or hangs nowhere.
    PowerBudgetInvalid,
}

impl Reason {
    /// Every reason there is, in the order in which they are declared.
    pub const ALL: [Self; 36] = [
        Self::Serving,
        Self::Starting,
        Self::Fetching,
        Self::Loading,
        Self::Replacing,
        Self::RolledOut,
        Self::RollingOut,
        Self::CanaryServing,
        Self::RolloutStopped,
        Self::BackingOff,
        Self::OutOfMemoryKilled,
        Self::NodeLost,
        Self::RankFailed,
        Self::Unschedulable,
        Self::ImageMissing,
        Self::MountMissing,
        Self::QuotaExceeded,
        Self::Refused,
        Self::ConfigRefused,
        Self::NoUsableGpu,
        Self::WeightsMissing,
        Self::WeightsUnauthorized,
        Self::WeightsUnreachable,
        Self::WeightsCorrupt,
        Self::DiskFull,
        Self::WeightsLoaded,
        Self::InsufficientMemory,
        Self::ScaledToZero,
        Self::NameTaken,
        Self::SpecInvalid,
        Self::ScaledByLoad,
        Self::LimitedByMaximum,
        Self::WithinBudget,
        Self::PowerBudgetFull,
        Self::PowerInfeasible,
        Self::PowerBudgetInvalid,
    ];
}

/// One condition of one model deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What it speaks of.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub truth: Truth,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people: what happened and what naru does about it.
    pub message: String,
    /// When `truth` last changed.
    pub since: Moment,
}

impl Condition {
    /// Keeps the old `since` when the truth did not flip between `previous` and `self`.
    pub fn continuing(mut self, previous: &[Self]) -> Self {
        let before = previous.iter().find(|condition| condition.kind == self.kind);
        if let Some(before) = before.filter(|before| before.truth == self.truth) {
            self.since = before.since;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(truth: Truth, since: u64) -> Condition {
        let (kind, reason) = (ConditionKind::Ready, Reason::Serving);
        Condition { kind, truth, reason, message: String::new(), since: Moment(since) }
    }

    #[track_caller]
    fn check(fact: &str, previous: &[Condition], next: Condition, since: u64) {
        assert_eq!(next.continuing(previous).since, Moment(since), "{fact}");
    }

    #[test]
    fn all_reasons_are_listed() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
        }
        assert_eq!(Reason::ALL.last(), Some(&Reason::PowerBudgetInvalid), "the last one declared");
    }

    #[test]
    fn transition_times() {
        use Truth::{False, True};
        check("a first condition starts now", &[], ready(True, 9), 9);
        check("the same truth goes on", &[ready(True, 3)], ready(True, 9), 3);
        check("a flip starts now", &[ready(False, 3)], ready(True, 9), 9);
    }
}
