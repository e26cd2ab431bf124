//! What to say about a model deployment: its conditions, from what was wished and seen.

use crate::deployment::Desired;
use crate::observed::{
    Observed, PendingReason, Phase, Replica, ReplicaId, WeightsFault, WorkerFailure,
};
use crate::power::{Allowance, Verdict};
use crate::rollout::Stage;
use crate::units::{Bytes, Millis, Moment};
use crate::{Condition, ConditionKind, Reason, Truth};

/// What keeps the next replica from being made.
pub(crate) struct Blocked {
    reason: Reason,
    words: String,
}

impl Blocked {
    pub(crate) fn by_memory() -> Self {
        let words = "the next one waits until its memory request is free".to_owned();
        Self { reason: Reason::InsufficientMemory, words }
    }

    pub(crate) fn by_power(verdict: &Verdict) -> Self {
        Self { reason: verdict.reason, words: verdict.message.clone() }
    }
}

/// What was found out on the way to a plan.
pub(crate) struct Told<'a> {
    /// How far the exchange of templates is.
    pub(crate) stage: Stage,
    /// What the power budgets allow; `None`: it draws from none.
    pub(crate) power: Option<&'a Allowance>,
    /// What keeps the next replica from being made.
    pub(crate) blocked: Option<Blocked>,
}

/// One condition per kind, in the order Ready, WorkersReady, WeightsAvailable, RolledOut, and
/// PowerFits of those that draw from a budget.
pub(crate) fn conditions(
    desired: &Desired,
    observed: &Observed,
    Told { stage, power, blocked }: Told<'_>,
    now: Moment,
) -> Vec<Condition> {
    let seen = Seen::count(desired, observed, blocked);
    let entries = [
        (ConditionKind::Ready, seen.ready()),
        (ConditionKind::WorkersReady, seen.workers_ready()),
        (ConditionKind::WeightsAvailable, seen.weights_available()),
        (ConditionKind::RolledOut, seen.rolled_out(stage, desired.rollout.canary)),
    ];
    let power = power.map(|power| {
        let Verdict { truth, reason, message } = power.verdict.clone();
        (ConditionKind::PowerFits, (truth, reason, message))
    });
    entries
        .into_iter()
        .chain(power)
        .map(|(kind, (truth, reason, message))| Condition {
            kind,
            truth,
            reason,
            message,
            since: now,
        })
        .collect()
}

type Finding = (Truth, Reason, String);

/// What the conditions are made of.
struct Seen<'a> {
    wished: usize,
    ready_current: usize,
    ready_outdated: usize,
    /// Replicas of older templates that have not been told to go.
    older: usize,
    /// Whether any of the present template has ever answered.
    has_served: bool,
    /// Current replicas that are not ready, the furthest along first.
    coming: Vec<&'a Replica>,
    blocked: Option<Blocked>,
    /// Whether a request makes replicas come.
    wakes: bool,
}

impl<'a> Seen<'a> {
    fn count(desired: &Desired, observed: &'a Observed, blocked: Option<Blocked>) -> Self {
        let revision = desired.template.revision();
        let staying = || observed.replicas.iter().filter(|replica| replica.drain_since.is_none());
        let ready = |replica: &&Replica| matches!(replica.phase, Phase::Ready);
        let current = |replica: &&Replica| replica.revision == revision && !replica.displaced;
        let mut coming: Vec<_> = staying().filter(current).filter(|r| !ready(r)).collect();
        coming.sort_by_key(|replica| replica.id);
        Self {
            wished: desired.replicas.0 as usize,
            ready_current: staying().filter(current).filter(ready).count(),
            ready_outdated: staying().filter(|r| !current(r)).filter(ready).count(),
            older: staying().filter(|replica| replica.revision != revision).count(),
            has_served: staying().filter(current).any(|replica| replica.has_served),
            coming,
            blocked,
            wakes: desired.scaling.is_some(),
        }
    }

    fn ready(&self) -> Finding {
        let ready = self.ready_current + self.ready_outdated;
        if self.wished > 0 && ready >= self.wished && self.ready_current < self.wished {
            let (_, why, message) = self.waiting();
            let reason = if why == Reason::Starting { Reason::Replacing } else { why };
            return (
                Truth::True,
                reason,
                format!("replicas that are to go answer still; {message}"),
            );
        }
        self.workers_ready()
    }

    fn workers_ready(&self) -> Finding {
        if self.wished == 0 {
            let message = if self.wakes {
                "nobody asks; the next request wakes a replica"
            } else {
                "no replica is wished"
            };
            return (Truth::False, Reason::ScaledToZero, message.into());
        }
        if self.ready_current >= self.wished {
            let message = format!("{} of {} replicas answer", self.wished, self.wished);
            return (Truth::True, Reason::Serving, message);
        }
        self.waiting()
    }

    /// What the slowest step is: trouble before patience.
    fn waiting(&self) -> Finding {
        let answer = format!("{} of {} replicas answer", self.ready_current, self.wished);
        let say = |reason, words: String| (Truth::False, reason, format!("{answer}; {words}"));
        if let Some((replica, failure)) = self.failed() {
            let (id, times) = (replica.id, replica.failures.0);
            let words = match failure {
                WorkerFailure::NodeLost(_) => {
                    format!("replica {id} is started elsewhere: {failure}")
                }
                WorkerFailure::Rank(lost) => parted(id, lost),
                _ => format!(
                    "replica {id} ended {times} times and is started again after a wait: {failure}"
                ),
            };
            return say(failure_reason(failure), words);
        }
        if let Some((id, lost)) = self.parted() {
            return say(Reason::RankFailed, parted(id, lost));
        }
        if let Some((replica, why)) = self.stuck() {
            let words = format!("replica {} cannot start: {why}", replica.id);
            return say(why.reason(), words);
        }
        if let Some(Blocked { reason, words }) = &self.blocked {
            return say(*reason, words.clone());
        }
        match self.coming.first().map(|replica| (replica.id, &replica.phase)) {
            Some((id, Phase::Fetching { done, total })) => {
                let how_far = progress(*done, *total);
                say(Reason::Fetching, format!("replica {id} is fetching weights{how_far}"))
            }
            Some((id, Phase::Loading)) => {
                say(Reason::Loading, format!("replica {id} is loading weights"))
            }
            Some((id, Phase::Apart { .. })) => {
                say(Reason::Starting, format!("the ranks of replica {id} are about to meet"))
            }
            Some((id, _)) => say(Reason::Starting, format!("replica {id} is starting")),
            None => say(Reason::Starting, "more are about to start".into()),
        }
    }

    /// How far the exchange of templates is, as `kubectl rollout status` would say it.
    fn rolled_out(&self, stage: Stage, canary: Millis) -> Finding {
        if self.wished == 0 || (self.older == 0 && self.has_served) {
            let message = "every replica is of the present template".into();
            return (Truth::True, Reason::RolledOut, message);
        }
        let done = format!(
            "{} of {} replicas are of the present template and answer; {} of older ones do",
            self.ready_current, self.wished, self.ready_outdated
        );
        let (reason, words) = match stage {
            Stage::Settled | Stage::Moving => (Reason::RollingOut, String::new()),
            Stage::Canary => {
                let seconds = canary.0 / 1000;
                let words =
                    format!("; the first has to answer for {seconds} s before others follow");
                (Reason::CanaryServing, words)
            }
            Stage::Stopped(id) => {
                let (_, _, why) = self.waiting();
                let words = format!("; replica {id} does not become ready: {why}");
                (Reason::RolloutStopped, words)
            }
        };
        (Truth::False, reason, done + &words)
    }

    fn failed(&self) -> Option<(&'a Replica, &'a WorkerFailure)> {
        self.coming.iter().find_map(|replica| match &replica.phase {
            Phase::Stopped { failure, .. } => Some((*replica, failure)),
            _ => None,
        })
    }

    /// A replica whose ranks wait for one that was lost.
    fn parted(&self) -> Option<(ReplicaId, &'a str)> {
        self.coming.iter().find_map(|replica| match &replica.phase {
            Phase::Apart { lost: Some(lost) } => Some((replica.id, lost.as_str())),
            _ => None,
        })
    }

    /// A replica that waits for more than its turn.
    fn stuck(&self) -> Option<(&'a Replica, &'a PendingReason)> {
        self.coming.iter().find_map(|replica| match &replica.phase {
            Phase::Pending { why: PendingReason::Placing } => None,
            Phase::Pending { why } => Some((*replica, why)),
            _ => None,
        })
    }

    fn weights_available(&self) -> Finding {
        let loads =
            |replica: &&Replica| matches!(replica.phase, Phase::Loading | Phase::Apart { .. });
        if self.ready_current > 0 || self.coming.iter().any(loads) {
            return (Truth::True, Reason::WeightsLoaded, "the weights were accepted".into());
        }
        match self.failed() {
            Some((_, failure @ WorkerFailure::Weights(_, words))) => {
                (Truth::False, failure_reason(failure), words.clone())
            }
            _ if self.wished == 0 => {
                (Truth::Unknown, Reason::ScaledToZero, "nobody has asked for them".into())
            }
            _ => (Truth::Unknown, Reason::Fetching, self.fetching()),
        }
    }

    /// How far the furthest fetch is.
    fn fetching(&self) -> String {
        let fetches = self.coming.iter().filter_map(|replica| match replica.phase {
            Phase::Fetching { done, total } => Some((done, total)),
            _ => None,
        });
        match fetches.max_by_key(|(done, _)| *done) {
            Some((done, total)) => format!("weights are on their way{}", progress(done, total)),
            None => "no replica has loaded them yet".into(),
        }
    }
}

fn parted(id: ReplicaId, lost: &str) -> String {
    format!("replica {id} lost {lost}; its other ranks wait for it")
}

/// `: 43 % of 98 MB`; nothing before anything has come.
fn progress(Bytes(done): Bytes, total: Option<Bytes>) -> String {
    match total {
        Some(Bytes(total)) if total > 0 => {
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            format!(": {percent} % of {}", amount(total))
        }
        _ if done > 0 => format!(": {}", amount(done)),
        _ => String::new(),
    }
}

fn amount(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

fn failure_reason(failure: &WorkerFailure) -> Reason {
    match failure {
        WorkerFailure::Weights(fault, _) => match fault {
            WeightsFault::Missing => Reason::WeightsMissing,
            WeightsFault::Unauthorized => Reason::WeightsUnauthorized,
            WeightsFault::Unreachable => Reason::WeightsUnreachable,
            WeightsFault::Corrupt => Reason::WeightsCorrupt,
            WeightsFault::NoSpace => Reason::DiskFull,
        },
        WorkerFailure::Config(_) => Reason::ConfigRefused,
        WorkerFailure::NoUsableGpu(_) => Reason::NoUsableGpu,
        WorkerFailure::OutOfMemory(_) => Reason::OutOfMemoryKilled,
        WorkerFailure::NodeLost(_) => Reason::NodeLost,
        WorkerFailure::Rank(_) => Reason::RankFailed,
        WorkerFailure::Ended(_) => Reason::BackingOff,
    }
}
