//! The loop: a pass over what changed, and over what a plan asked to see again.

use std::sync::Arc;

use naru_api::{ScalingDecision, Wishes};
use naru_plan::power::Allowance;
use naru_plan::{Condition, Desired, Millis, NextCheck, Observed, plan};
use naru_protocol::Snapshot;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::agenda::{Agenda, Due};
use crate::power::share;
use crate::report::{Readiness, Reports};
use crate::scale::{Scale, scale};
use crate::world::{Changed, Decision, Done, Outcome, World};

/// After an action whose result nobody tells of: the wait before looking at what became of it.
const AGAIN: Millis = Millis(20);

/// What the loop obeys.
#[derive(Clone, Debug)]
pub struct Controls {
    /// Everything that is wished; always whole.
    pub wishes: watch::Receiver<Arc<Wishes>>,
    /// Once set, everything drains within this time and the loop ends.
    pub stop: watch::Receiver<Option<Millis>>,
}

/// What the loop tells.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Where models answer, for gateways.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// Whether every deployment with a replica is Ready.
    pub readiness: watch::Sender<Readiness>,
}

/// Runs the loop until it is told to stop and nothing is left.
pub async fn run<W: World>(mut world: W, mut controls: Controls, outputs: Outputs) {
    let mut reports = Reports::new(outputs);
    let mut agenda = Agenda::default();
    let mut changed = Changed::Everything;
    let (mut known, mut had_left) = (None, false);
    loop {
        let wishes = controls.wishes.borrow_and_update().clone();
        let stop = *controls.stop.borrow_and_update();
        let left = world.deployments();
        if stop.is_some() && left.is_empty() {
            return;
        }
        let now = Instant::now();
        let is_news = known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &wishes));
        let has_left = !left.is_empty();
        if is_news || stop.is_some() || has_left || had_left {
            agenda.wish(everything(left, &wishes.deployments, stop), now);
            (known, had_left) = (Some(wishes.clone()), has_left);
            reports.wished();
        }
        agenda.mark(&changed, now);
        pass(&mut world, &mut agenda, &wishes, &mut reports).await;
        let next = agenda.next(Instant::now());
        changed = tokio::select! {
            changed = world.changed() => changed,
            Ok(()) = controls.wishes.changed() => Changed::nothing(),
            Ok(()) = controls.stop.changed() => Changed::nothing(),
            () = sleep_until(next) => Changed::nothing(),
        };
    }
}

/// The wishes, and what is left of deployments that nobody wishes any more.
fn everything(left: Vec<Desired>, wishes: &[Desired], stop: Option<Millis>) -> Vec<Desired> {
    let is_wished = |left: &Desired| wishes.iter().any(|wish| wish.name == left.name);
    let left = left.into_iter().filter(|left| !is_wished(left));
    let mut desired: Vec<_> = wishes.to_vec();
    desired.extend(left.map(|left| left.without_replicas()));
    match stop {
        None => desired,
        Some(drain) => {
            desired.iter().map(|wish| Desired { drain, ..wish.without_replicas() }).collect()
        }
    }
}

/// One pass over everything that is due. What is still being carried out is not decided anew, but
/// gateways hear of it: they must not wait for a world that is slow.
async fn pass<W: World>(
    world: &mut W,
    agenda: &mut Agenda,
    wishes: &Wishes,
    reports: &mut Reports,
) {
    for outcome in world.outcomes() {
        if let Some(desired) = settle(agenda, outcome) {
            reports.endpoints(world, &desired);
        }
    }
    let due = agenda.take_due(Instant::now());
    due.iter().for_each(|Due { desired, .. }| reports.endpoints(world, desired));
    let free = due.iter().filter(|due| !due.is_under_way);
    let drafts: Vec<_> = free.map(|due| draft(world, agenda, &due.desired)).collect();
    let shared = share(world, agenda, wishes, &drafts);
    agenda.look_at_power(shared.next_check, Instant::now());
    let mut decisions = Vec::new();
    for draft in drafts {
        let power = shared.allowances.get(&draft.desired.name);
        let decision = decide(world, agenda, draft, power);
        reports.conditions(&decision.desired, decision.plan.conditions.clone());
        agenda.begins(&decision.desired.name, decision.expected());
        decisions.push(decision);
    }
    agenda.allow(shared.allowances, &decisions, Instant::now());
    reports.publish(agenda, &wishes.tenants);
    world.apply(decisions).await;
    world.report_budgets(&shared.budgets);
}

/// Takes what became of one decision; returns whose it was, if that is still wished.
fn settle<E: std::error::Error>(agenda: &mut Agenda, outcome: Outcome<E>) -> Option<Arc<Desired>> {
    let (Outcome { name, result }, now) = (outcome, Instant::now());
    let desired = agenda.ends(&name, now);
    match result {
        Ok(Done::WillBeTold) => agenda.succeeded(&name),
        Ok(Done::LookAgain) => {
            agenda.succeeded(&name);
            agenda.look_in(&name, AGAIN, now);
        }
        Err(error) => {
            let (deployment, error) = (name.to_string(), one_line(&error));
            tracing::error!(deployment, error, "a decision could not be carried out");
            agenda.failed(&name, now);
        }
    }
    desired
}

/// What one deployment wishes and has, before anybody's share of power is known.
pub(crate) struct Draft {
    /// The wish, with the number of replicas that was decided.
    pub(crate) desired: Arc<Desired>,
    pub(crate) observed: Observed,
    condition: Option<Condition>,
    next_check: NextCheck,
    scaling: Vec<ScalingDecision>,
}

/// Looks at one deployment and decides how many replicas it should have.
fn draft<W: World>(world: &W, agenda: &mut Agenda, desired: &Arc<Desired>) -> Draft {
    let name = &desired.name;
    let observed = world.observe(name);
    let scale = scale(world, desired, &observed, agenda.scaled(name));
    let Some(Scale { desired, scaled, condition, next_check }) = scale else {
        agenda.remember(name, None);
        let (desired, next_check) = (Arc::clone(desired), NextCheck::OnChange);
        return Draft { desired, observed, condition: None, next_check, scaling: Vec::new() };
    };
    let scaling = scaled.history.clone();
    agenda.remember(name, Some(scaled));
    let (desired, condition) = (Arc::new(desired), Some(condition));
    Draft { desired, observed, condition, next_check, scaling }
}

/// What to do about one deployment, and when to look at it again.
fn decide<W: World>(
    world: &W,
    agenda: &mut Agenda,
    draft: Draft,
    power: Option<&Allowance>,
) -> Decision {
    let Draft { desired, observed, condition, next_check, scaling } = draft;
    let mut plan = plan(&desired, &observed, power, world.now());
    plan.conditions.extend(condition);
    plan.next_check = plan.next_check.min(next_check);
    if let NextCheck::In(wait) = plan.next_check {
        agenda.look_in(&desired.name, wait, Instant::now());
    }
    Decision { desired, observed, plan, scaling, power: power.cloned() }
}

/// An error and what caused it, in one line.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some say in their own words what their cause says.
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
