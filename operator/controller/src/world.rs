//! What the loop acts on: where replicas live, and how they come and go.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use naru_api::ScalingDecision;
use naru_plan::power::{Allowance, BudgetReport, Leftover};
use naru_plan::scaling::Load;
use naru_plan::{Action, DeploymentName, Desired, Moment, Observed, Plan};
use naru_protocol::Endpoint;

use crate::clock::wall_clock;

/// A place in which replicas run.
///
/// `observe` tells all there is to know; nothing is remembered between passes outside a world.
pub trait World {
    /// What can go wrong when a decision is carried out.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The present, in the world's own count.
    fn now(&self) -> Moment;

    /// The present by the clocks of people, since 1970: schedules are written by these.
    fn wall_clock(&self) -> Moment {
        wall_clock()
    }

    /// Every deployment that has replicas, with the wish they were last made for; those that the
    /// world itself clears away when nobody wishes them any more may be left out.
    fn deployments(&self) -> Vec<Desired>;

    /// What runs of one deployment.
    fn observe(&self, name: &DeploymentName) -> Observed;

    /// The load of one deployment; `None`: this world leaves the number of replicas alone.
    fn load(&self, _desired: &Desired) -> Option<Load> {
        None
    }

    /// The changes of the number of replicas that an earlier loop reported, the newest last.
    fn scaling_history(&self, _name: &DeploymentName) -> Vec<ScalingDecision> {
        Vec::new()
    }

    /// What workers draw that belong to none of these deployments.
    fn leftovers(&self, _wished: &BTreeSet<&DeploymentName>) -> Vec<Leftover> {
        Vec::new()
    }

    /// Tells how the power budgets stand, where the world has a place for that.
    fn report_budgets(&mut self, _budgets: &[BudgetReport]) {}

    /// Begins to carry decisions out, and to report them where the world has a place for that.
    /// Done twice it does no more than once. Nothing that may take long is waited for: each
    /// decision has one outcome, later. None is handed in about a deployment that has one coming.
    fn apply(&mut self, decisions: Vec<Decision>) -> impl Future<Output = ()> + Send;

    /// What became of decisions, in any order; each is told once.
    fn outcomes(&mut self) -> Vec<Outcome<Self::Error>>;

    /// Where the replicas of one deployment answer, those that serve all of its present names.
    fn endpoints(&self, desired: &Desired) -> Vec<Endpoint>;

    /// Unix seconds at which the deployment was first wished.
    fn created_unix_seconds(&self, name: &DeploymentName) -> u64;

    /// Returns when something may have changed, and for whom, or when there is an outcome.
    /// Dropping it loses nothing.
    fn changed(&mut self) -> impl Future<Output = Changed> + Send;
}

/// What one pass decided about one deployment.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The wish.
    pub desired: Arc<Desired>,
    /// What was seen.
    pub observed: Observed,
    /// What to do about the difference, and what to say.
    pub plan: Plan,
    /// The last times naru changed the number of replicas, the newest last.
    pub scaling: Vec<ScalingDecision>,
    /// What the power budgets allow; `None`: it draws from none.
    pub power: Option<Allowance>,
}

impl Decision {
    /// The replicas that stay or are made by it: each draws power once it is there.
    pub(crate) fn expected(&self) -> u32 {
        let staying = self.observed.replicas.iter().filter(|it| it.drain_since.is_none()).count();
        let creates = |action: &&Action| matches!(action, Action::Create(_));
        let created = self.plan.actions.iter().filter(creates).count();
        u32::try_from(staying + created).unwrap_or(u32::MAX)
    }
}

/// What became of one decision.
#[derive(Debug)]
pub struct Outcome<E> {
    /// Whose decision it was.
    pub name: DeploymentName,
    /// Whether it was carried out.
    pub result: Result<Done, E>,
}

/// What carrying a decision out came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Something was done that only another look shows.
    LookAgain,
    /// Whatever was done, the world will tell of it.
    WillBeTold,
}

/// For whom something may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// For every deployment.
    Everything,
    /// For these.
    Only(BTreeSet<DeploymentName>),
}

impl Changed {
    /// For nobody.
    pub fn nothing() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// For those of both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(mut names), Self::Only(others)) => {
                names.extend(others);
                Self::Only(names)
            }
            _ => Self::Everything,
        }
    }
}
