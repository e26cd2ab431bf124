//! Power: which replicas the budgets have room for.
//!
//! Every replica is charged the declared maximum of its devices, from when it is made until its
//! worker is gone, against the budget that its deployment names and those above it. In each of
//! these, charges and overhead stay within the watts of the moment. Nobody measures: a charge is
//! what a replica may draw at most.
//!
//! ```text
//! budgets ──► tree ──► supply: free watts now, and at each step down that is near
//!                                  │
//! deployments, by rank ────────────┴──► allot ──► an allowance each, what the budgets show
//! ```
//!
//! A step down is met before it begins: what no longer fits drains as long before as draining
//! takes. So an allowance is the least of what is allotted now and at each step within that lead.

mod allot;
mod report;
mod say;
mod schedule;
mod supply;
mod tree;

pub use allot::{Allowance, FleetPlan, plan};
pub use report::{BudgetReport, BudgetState};
pub use say::Verdict;
pub use schedule::{Day, InvalidSchedule, MinuteOfDay, TimeZone, Window};
pub use tree::{BudgetFault, fault};

use crate::deployment::Desired;
use crate::names::{BudgetName, DeploymentName};
use crate::observed::Observed;
use crate::replicas::DRAIN_GRACE;
use crate::units::{Millis, Moment, ReplicaCount, Watts};

/// What a world may need, beyond drain time and grace, until a worker that was ended is gone.
const GONE_GRACE: Millis = Millis::from_seconds(5);
/// How much sooner than it must a drain for a scheduled step begins.
const LEAD_SLACK: Millis = Millis::from_seconds(15);

/// The watts that a domain may draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerBudget {
    /// Which budget this is.
    pub name: BudgetName,
    /// What the whole domain may draw while no window says less.
    pub watts: Watts,
    /// What the whole domain draws beside devices.
    pub overhead: Watts,
    /// The budget that this one is a part of.
    pub parent: Option<BudgetName>,
    /// When it may draw less.
    pub schedule: Vec<Window>,
}

/// Where a model deployment draws its watts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerWish {
    /// The budget.
    pub budget: BudgetName,
    /// What each replica is charged: the declared maximum of all its devices.
    pub watts_per_replica: Watts,
    /// Who has more is given room first.
    pub priority: i32,
}

/// A model deployment that draws from a budget, and what there is of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Which one.
    pub name: DeploymentName,
    /// Where it draws from.
    pub power: PowerWish,
    /// When it was first wished: of equal priority, the older has room first.
    pub created: Moment,
    /// How many replicas should answer.
    pub wished: ReplicaCount,
    /// How many there are that do not drain.
    pub staying: u32,
    /// How many more there may be while successors take over; zero: none do.
    pub surge: ReplicaCount,
    /// Since when each of the others drains.
    pub drains: Vec<Moment>,
    /// How long draining may take.
    pub drain: Millis,
}

impl Consumer {
    /// A deployment that wishes `wished` replicas, as it is seen; `None`: it draws from no budget.
    pub fn of(
        desired: &Desired,
        wished: ReplicaCount,
        observed: &Observed,
        created: Moment,
    ) -> Option<Self> {
        let power = desired.power.clone()?;
        let revision = desired.template.revision();
        let staying = || observed.replicas.iter().filter(|replica| replica.drain_since.is_none());
        let is_outdated =
            |replica: &crate::Replica| replica.revision != revision || replica.displaced;
        let surge = desired.rollout.strategy.surge();
        let surge = ReplicaCount(u32::try_from(surge).unwrap_or(u32::MAX));
        Some(Self {
            name: desired.name.clone(),
            power,
            created,
            wished,
            staying: u32::try_from(staying().count()).unwrap_or(u32::MAX),
            surge: if staying().any(is_outdated) { surge } else { ReplicaCount(0) },
            drains: observed.replicas.iter().filter_map(|replica| replica.drain_since).collect(),
            drain: desired.drain,
        })
    }

    /// How long after its order to drain a replica is surely gone.
    fn gone_after(&self) -> Millis {
        Millis(self.drain.0.saturating_add(DRAIN_GRACE.0 + GONE_GRACE.0))
    }

    /// How long before a step down it has to begin to drain.
    fn lead(&self) -> Millis {
        Millis(self.gone_after().0.saturating_add(LEAD_SLACK.0))
    }

    /// Replicas that drain now and may not be gone at `at`.
    fn draining_at(&self, at: Moment, now: Moment) -> u32 {
        let is_there = |since: &&Moment| at < self.gone_by(**since, now);
        u32::try_from(self.drains.iter().filter(is_there).count()).unwrap_or(u32::MAX)
    }

    /// One that should be gone already takes a little longer still.
    fn gone_by(&self, since: Moment, now: Moment) -> Moment {
        since.after(self.gone_after()).max(now.after(GONE_GRACE))
    }

    /// Whether what is ordered to drain now may still be there at `at`.
    fn is_late_for(&self, at: Moment, now: Moment) -> bool {
        at < now.after(self.gone_after())
    }
}

/// Watts that workers draw whose deployment nobody wishes any more, or nobody understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The budget they are charged to.
    pub budget: BudgetName,
    /// How many.
    pub watts: Watts,
    /// When they will be gone; `None`: nobody knows.
    pub gone_by: Option<Moment>,
}

/// Everything that shares the budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// The budgets, in any order; of several with one name the first counts.
    pub budgets: Vec<PowerBudget>,
    /// The model deployments that draw from them, in any order.
    pub consumers: Vec<Consumer>,
    /// What else is charged.
    pub leftovers: Vec<Leftover>,
}

#[cfg(test)]
#[path = "properties.rs"]
mod properties;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
