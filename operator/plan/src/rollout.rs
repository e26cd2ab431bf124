//! How replicas of an older template give way to those of the present one, and how far that is.

use std::num::NonZeroU32;

use crate::deployment::Desired;
use crate::observed::{Observed, Phase, Replica, ReplicaId};
use crate::replicas::NextCheck;
use crate::units::{Millis, Moment};

/// A replica of a new template that has failed so often in a row stops the rollout.
pub const ROLLOUT_FAILURES_MAX: u32 = 3;

/// How replicas give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// What goes first: the old one or the new one.
    pub strategy: Strategy,
    /// The first replica of a new template has to answer for this long before any other is
    /// exchanged; zero: none goes ahead of the others.
    pub canary: Millis,
    /// A replica that is neither fetching, loading nor answering after this long stops the rollout.
    pub deadline: Millis,
}

/// What goes first: the old replica or the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// New replicas are made beside old ones, so that there is room for more than are wished.
    Surge {
        /// How many may exist beyond the wished number.
        max_surge: NonZeroU32,
        /// How many of the wished number need not answer meanwhile; never all of them.
        max_unavailable: u32,
    },
    /// Old replicas go before new ones come: nothing is used that was not used before.
    InPlace {
        /// How many of the wished number need not answer meanwhile.
        max_unavailable: NonZeroU32,
    },
}

impl Default for Rollout {
    fn default() -> Self {
        let strategy = Strategy::Surge { max_surge: NonZeroU32::MIN, max_unavailable: 0 };
        Self { strategy, canary: Millis(0), deadline: Millis::from_seconds(600) }
    }
}

impl Strategy {
    /// How many replicas may exist beyond the wished number.
    pub fn surge(self) -> usize {
        match self {
            Self::Surge { max_surge, .. } => max_surge.get() as usize,
            Self::InPlace { .. } => 0,
        }
    }

    /// How many of `wished` replicas need not answer.
    pub(crate) fn unavailable(self, wished: usize) -> usize {
        match self {
            // Whoever has room for one more never has to go without any.
            Self::Surge { max_unavailable, .. } => {
                (max_unavailable as usize).min(wished.saturating_sub(1))
            }
            Self::InPlace { max_unavailable } => (max_unavailable.get() as usize).min(wished),
        }
    }

    /// Whether a replica that drains holds what its successor needs.
    pub(crate) fn waits_for_drains(self) -> bool {
        matches!(self, Self::InPlace { .. })
    }
}

/// How far the exchange of templates is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is nothing of an older template that has ever answered.
    Settled,
    /// Replicas are exchanged.
    Moving,
    /// One is; the others wait until it has answered for long enough.
    Canary,
    /// None is any more: this one of the present template does not become ready.
    Stopped(ReplicaId),
}

impl Stage {
    /// The stage, and when another may have come though nothing was reported.
    pub(crate) fn find(desired: &Desired, observed: &Observed, now: Moment) -> (Self, NextCheck) {
        let revision = desired.template.revision();
        let staying = observed.replicas.iter().filter(|replica| replica.drain_since.is_none());
        let (new, old): (Vec<_>, Vec<_>) =
            staying.partition(|replica| replica.revision == revision);
        if !old.iter().any(|replica| replica.has_served || replica.phase == Phase::Ready) {
            return (Self::Settled, NextCheck::OnChange);
        }
        let rollout = desired.rollout;
        let troubles = new.iter().filter_map(|new| Some((trouble(new, rollout.deadline)?, new.id)));
        let canary = new.iter().filter_map(|new| Some(new.ready_since?.after(rollout.canary)));
        let (trouble, proven) = (troubles.min(), canary.min());
        let next = match trouble {
            Some((at, id)) if at <= now => return (Self::Stopped(id), NextCheck::OnChange),
            Some((at, _)) => NextCheck::In(at.since(now)),
            None => NextCheck::OnChange,
        };
        match proven {
            _ if rollout.canary == Millis(0) => (Self::Moving, next),
            Some(at) if at <= now => (Self::Moving, next),
            Some(at) => (Self::Canary, next.min(NextCheck::In(at.since(now)))),
            None => (Self::Canary, next),
        }
    }

    /// How many replicas of the present template there may be, of which `there` are.
    pub(crate) fn current_max(self, wished: usize, there: usize) -> usize {
        match self {
            Self::Settled | Self::Moving => wished,
            Self::Canary => wished.min(1),
            Self::Stopped(_) => wished.min(there),
        }
    }

    /// How many replicas of older templates stay, whoever answers in their place.
    pub(crate) fn outdated_min(self, wished: usize, there: usize, surge: usize) -> usize {
        match self {
            Self::Settled | Self::Moving => 0,
            Self::Canary | Self::Stopped(_) => {
                wished.saturating_sub(self.current_max(wished, there).saturating_sub(surge))
            }
        }
    }
}

/// From when on a replica of a new template speaks against it; `None`: never, as things are.
fn trouble(replica: &Replica, deadline: Millis) -> Option<Moment> {
    match replica.phase {
        Phase::Ready | Phase::Fetching { .. } | Phase::Loading => None,
        _ if replica.failures.0 >= ROLLOUT_FAILURES_MAX => Some(Moment(0)),
        _ if replica.has_served => None,
        _ => Some(replica.created.after(deadline)),
    }
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
