//! Which replicas to create, drain, remove and restart.
//!
//! One pass compares the wish with what runs. Replicas of the present template are *current*,
//! the others *outdated*. Outdated ones go on serving, and are even restarted, until a current
//! one answers in their place, or until the rollout allows that nobody does; only then do they
//! drain. Every removal keeps the promise that as many replicas answer afterwards as before, up
//! to the number wished, less what the rollout allows.

use crate::deployment::{Desired, Revision};
use crate::observed::{Observed, Phase, Replica, ReplicaId};
use crate::power::Allowance;
use crate::rollout::{Stage, Strategy};
use crate::status::{self, Blocked, Told};
use crate::units::{Bytes, Millis, Moment};
use crate::{Condition, Truth};

/// A worker that has said nothing for this long is killed and started again.
pub const SILENT_MAX: Millis = Millis::from_seconds(30);
/// What a draining worker gets beyond its drain time before it is removed by force.
pub const DRAIN_GRACE: Millis = Millis::from_seconds(5);
/// When to look again for memory that others may have given back.
const MEMORY_RETRY: Millis = Millis::from_seconds(5);

/// One thing to do to one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Forget it; end its worker at once if it still runs.
    Remove(ReplicaId),
    /// Give it no new request, let its streams finish, end it.
    Drain(ReplicaId),
    /// Start its worker again from the template it was made from; end the old one if it runs.
    Restart(ReplicaId),
    /// Make it from the present template.
    Create(ReplicaId),
}

/// When the same plan should be made again though nothing was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextCheck {
    /// After this time.
    In(Millis),
    /// Only when something changes.
    OnChange,
}

/// What to do about one model deployment, and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in this order.
    pub actions: Vec<Action>,
    /// What is true now, before the actions; one per [`crate::ConditionKind`].
    pub conditions: Vec<Condition>,
    /// When to look again.
    pub next_check: NextCheck,
}

/// Plans one model deployment. Pure: the same input gives the same plan.
///
/// After the actions of a plan at least `min(wished - unavailable, ready before)` replicas are
/// ready, and at most `wished + surge` are neither draining nor left from a larger wish, as the
/// rollout's strategy says.
///
/// `power` is what the budgets allow; `None`: it draws from none. No more replicas stay than are
/// allowed, and no more are made.
pub fn plan(
    desired: &Desired,
    observed: &Observed,
    power: Option<&Allowance>,
    now: Moment,
) -> Plan {
    let revision = desired.template.revision();
    let limits = Limits::of(desired, power);
    let (stage, next_check) = Stage::find(desired, observed, now);
    let mut pass = Pass { now, actions: Vec::new(), next_check };

    pass.finish_drains(observed, desired.drain);
    let mut staying = Staying::sort(observed, revision);
    pass.let_go(staying.take_hopeless());
    pass.let_go(staying.take_excess(limits.wished, desired.rollout.strategy, stage));
    pass.let_go(staying.take_beyond(limits.total));
    pass.restart_stopped(&staying);
    let blocked = pass.create(desired, observed, &staying, stage, &limits).or_else(|| {
        let verdict = &power?.verdict;
        (verdict.truth == Truth::False).then(|| Blocked::by_power(verdict))
    });

    pass.actions.sort_unstable();
    let told = Told { stage, power, blocked };
    let conditions = status::conditions(desired, observed, told, now);
    Plan { actions: pass.actions, conditions, next_check: pass.next_check }
}

/// How many replicas there may be.
struct Limits {
    /// Of those that are wished, how many may stay.
    wished: usize,
    /// How many may stay in all, while templates are exchanged.
    total: usize,
    /// How many may be made.
    creations: usize,
}

impl Limits {
    fn of(desired: &Desired, power: Option<&Allowance>) -> Self {
        let wished = desired.replicas.0 as usize;
        let Some(power) = power else {
            return Self { wished, total: usize::MAX, creations: usize::MAX };
        };
        let wished = wished.min(power.replicas.0 as usize);
        let surge = power.surge.0 as usize;
        Self { wished, total: wished + surge, creations: power.creations.0 as usize }
    }
}

/// The replicas that are not draining, apart by whether they may stay, those to part with first in
/// front. One that is displaced is as outdated as one of an older template.
struct Staying<'a> {
    current: Vec<&'a Replica>,
    outdated: Vec<&'a Replica>,
}

impl<'a> Staying<'a> {
    fn sort(observed: &'a Observed, revision: Revision) -> Self {
        let mut all: Vec<_> =
            observed.replicas.iter().filter(|replica| replica.drain_since.is_none()).collect();
        all.sort_by_key(|replica| parting(replica));
        let is_current = |replica: &&Replica| replica.revision == revision && !replica.displaced;
        let (current, outdated) = all.into_iter().partition(is_current);
        Self { current, outdated }
    }

    /// Outdated replicas that never answered: nobody waits for them.
    fn take_hopeless(&mut self) -> Vec<&'a Replica> {
        let hopeless = |replica: &&Replica| !replica.has_served && !is_ready(replica);
        let (gone, kept) = self.outdated.drain(..).partition(hopeless);
        self.outdated = kept;
        gone
    }

    /// Current replicas beyond the wish, and outdated ones that are not needed until their
    /// successors are ready.
    fn take_excess(&mut self, wished: usize, strategy: Strategy, stage: Stage) -> Vec<&'a Replica> {
        let mut gone: Vec<_> =
            self.current.drain(..self.current.len().saturating_sub(wished)).collect();
        let successors = self.current.iter().filter(|replica| is_ready(replica)).count();
        let needed = wished.saturating_sub(successors + strategy.unavailable(wished));
        let needed = needed.max(stage.outdated_min(wished, self.current.len(), strategy.surge()));
        gone.extend(self.outdated.drain(..self.outdated.len().saturating_sub(needed)));
        gone
    }

    /// What is beyond all that may be: a successor that nobody waits for is the first to go.
    fn take_beyond(&mut self, total: usize) -> Vec<&'a Replica> {
        let mut gone = Vec::new();
        while self.count() > total {
            let all = self.current.iter().chain(&self.outdated);
            let Some(id) = all.min_by_key(|replica| parting(replica)).map(|replica| replica.id)
            else {
                break;
            };
            for side in [&mut self.current, &mut self.outdated] {
                gone.extend(side.extract_if(.., |replica| replica.id == id));
            }
        }
        gone
    }

    fn count(&self) -> usize {
        self.current.len() + self.outdated.len()
    }
}

fn is_ready(replica: &Replica) -> bool {
    matches!(replica.phase, Phase::Ready)
}

/// The order in which replicas are parted with.
fn parting(replica: &Replica) -> (u8, std::cmp::Reverse<ReplicaId>) {
    (usefulness(replica), std::cmp::Reverse(replica.id))
}

/// How far a replica is from answering: the least useful is parted with first.
fn usefulness(replica: &Replica) -> u8 {
    match replica.phase {
        Phase::Pending { .. } => 0,
        Phase::Stopped { .. } => 1,
        Phase::Silent { .. } => 2,
        Phase::Fetching { .. } => 3,
        Phase::Loading => 4,
        Phase::Apart { .. } => 5,
        Phase::Ready => 6,
    }
}

/// What one pass has decided so far.
struct Pass {
    now: Moment,
    actions: Vec<Action>,
    next_check: NextCheck,
}

impl Pass {
    /// Removes what has drained or has had its time.
    fn finish_drains(&mut self, observed: &Observed, drain: Millis) {
        for replica in &observed.replicas {
            let Some(since) = replica.drain_since else { continue };
            let stopped = matches!(replica.phase, Phase::Stopped { .. });
            let deadline = since.after(drain).after(DRAIN_GRACE);
            if stopped || self.is_due(deadline) {
                self.actions.push(Action::Remove(replica.id));
            }
        }
    }

    /// Parts with replicas: gently with those that may be answering, at once with the others.
    fn let_go(&mut self, replicas: Vec<&Replica>) {
        self.actions.extend(replicas.into_iter().map(|replica| match replica.phase {
            Phase::Ready => Action::Drain(replica.id),
            Phase::Silent { .. } if replica.has_served => Action::Drain(replica.id),
            _ => Action::Remove(replica.id),
        }));
    }

    /// Starts again what stopped, or says nothing, once its wait is over.
    fn restart_stopped(&mut self, staying: &Staying<'_>) {
        for replica in staying.current.iter().chain(&staying.outdated) {
            let due = match replica.phase {
                Phase::Stopped { at, .. } => at.after(replica.failures.wait()),
                Phase::Silent { since } => since.after(SILENT_MAX),
                _ => continue,
            };
            if self.is_due(due) {
                self.actions.push(Action::Restart(replica.id));
            }
        }
    }

    /// Makes what is missing, as far as surge, power and memory allow; returns whether memory
    /// stands in the way.
    fn create(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        staying: &Staying<'_>,
        stage: Stage,
        limits: &Limits,
    ) -> Option<Blocked> {
        let (there, strategy) = (staying.current.len(), desired.rollout.strategy);
        let missing = stage.current_max(limits.wished, there).saturating_sub(there);
        let missing = missing.min(limits.creations);
        let surge = if staying.outdated.is_empty() { 0 } else { strategy.surge() };
        let most = (limits.wished + surge).min(limits.total);
        // Until it is seen to be gone, a replica holds what it was given.
        let holds = strategy.waits_for_drains();
        let taken = if holds { observed.replicas.len() } else { staying.count() };
        let room = most.saturating_sub(taken);
        let memory = desired.template.memory();
        let mut free = observed.memory_free;
        for id in free_ids(observed).take(missing.min(room)) {
            let left = free.map(|Bytes(free)| free.checked_sub(memory.0).map(Bytes));
            if left == Some(None) {
                self.look_again_in(MEMORY_RETRY);
                return Some(Blocked::by_memory());
            }
            free = left.flatten();
            self.actions.push(Action::Create(id));
        }
        None
    }

    /// Whether `moment` has come; if not, the plan is made again when it has.
    fn is_due(&mut self, moment: Moment) -> bool {
        if moment <= self.now {
            return true;
        }
        self.look_again_in(moment.since(self.now));
        false
    }

    fn look_again_in(&mut self, wait: Millis) {
        self.next_check = self.next_check.min(NextCheck::In(wait));
    }
}

/// The numbers no replica has, smallest first.
fn free_ids(observed: &Observed) -> impl Iterator<Item = ReplicaId> + '_ {
    (0..).map(ReplicaId).filter(|id| observed.replicas.iter().all(|replica| replica.id != *id))
}

#[cfg(test)]
#[path = "replicas_tests.rs"]
pub(crate) mod tests;

#[cfg(test)]
#[path = "replicas_properties.rs"]
mod properties;
