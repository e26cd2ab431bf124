//! Which replicas to create, drain, remove and restart.
//!
//! One pass compares the wish with what runs. Replicas of the present template are *current*,
//! the others *outdated*. Outdated ones go on serving, and are even restarted, until a current
//! one answers in their place, or until the rollout allows that nobody does; only then do they
//! drain. Every removal keeps the promise that as many replicas answer afterwards as before, up
//! to the number wished, less what the rollout allows.

use crate::deployment::{Desired, Revision};
use crate::observed::{Observed, Phase, Replica, ReplicaId};
use crate::rollout::Stage;
use crate::status;
use crate::units::{Bytes, Millis, Moment};
use crate::{Condition, Reason};

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
pub fn plan(desired: &Desired, observed: &Observed, now: Moment) -> Plan {
    let revision = desired.template.revision();
    let (stage, next_check) = Stage::find(desired, observed, now);
    let mut pass = Pass { now, actions: Vec::new(), next_check };

    pass.finish_drains(observed, desired.drain);
    let mut staying = Staying::sort(observed, revision);
    pass.let_go(staying.take_hopeless());
    pass.let_go(staying.take_excess(desired, stage));
    pass.restart_stopped(&staying);
    let blocked = pass.create(desired, observed, &staying, stage);

    pass.actions.sort_unstable();
    let conditions = status::conditions(desired, observed, stage, blocked, now);
    Plan { actions: pass.actions, conditions, next_check: pass.next_check }
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
        all.sort_by_key(|replica| (usefulness(replica), std::cmp::Reverse(replica.id)));
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
    fn take_excess(&mut self, desired: &Desired, stage: Stage) -> Vec<&'a Replica> {
        let (wished, strategy) = (desired.replicas.0 as usize, desired.rollout.strategy);
        let mut gone: Vec<_> =
            self.current.drain(..self.current.len().saturating_sub(wished)).collect();
        let successors = self.current.iter().filter(|replica| is_ready(replica)).count();
        let needed = wished.saturating_sub(successors + strategy.unavailable(wished));
        let needed = needed.max(stage.outdated_min(wished, self.current.len(), strategy.surge()));
        gone.extend(self.outdated.drain(..self.outdated.len().saturating_sub(needed)));
        gone
    }

    fn count(&self) -> usize {
        self.current.len() + self.outdated.len()
    }
}

fn is_ready(replica: &Replica) -> bool {
    matches!(replica.phase, Phase::Ready)
}

/// How far a replica is from answering: the least useful is parted with first.
fn usefulness(replica: &Replica) -> u8 {
    match replica.phase {
        Phase::Pending { .. } => 0,
        Phase::Stopped { .. } => 1,
        Phase::Silent { .. } => 2,
        Phase::Fetching { .. } => 3,
        Phase::Loading => 4,
        Phase::Ready => 5,
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

    /// Makes what is missing, as far as surge and memory allow; returns what stands in the way.
    fn create(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        staying: &Staying<'_>,
        stage: Stage,
    ) -> Option<Reason> {
        let (wished, strategy) = (desired.replicas.0 as usize, desired.rollout.strategy);
        let there = staying.current.len();
        let missing = stage.current_max(wished, there).saturating_sub(there);
        let surge = if staying.outdated.is_empty() { 0 } else { strategy.surge() };
        // Until it is seen to be gone, a replica holds what it was given.
        let holds = strategy.waits_for_drains();
        let taken = if holds { observed.replicas.len() } else { staying.count() };
        let room = (wished + surge).saturating_sub(taken);
        let memory = desired.template.resources.memory.unwrap_or_default();
        let mut free = observed.memory_free;
        for id in free_ids(observed).take(missing.min(room)) {
            let left = free.map(|Bytes(free)| free.checked_sub(memory.0).map(Bytes));
            if left == Some(None) {
                self.look_again_in(MEMORY_RETRY);
                return Some(Reason::InsufficientMemory);
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
