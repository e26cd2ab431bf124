//! The loop: a pass over what changed, and over what a plan asked to see again.

use std::sync::Arc;

use naru_api::Wishes;
use naru_plan::{Desired, Millis, NextCheck, Tenant, plan};
use naru_protocol::Snapshot;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::agenda::{Agenda, Due};
use crate::report::{Readiness, Reports};
use crate::scale::scale;
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
        pass(&mut world, &mut agenda, &wishes.tenants, &mut reports).await;
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
    tenants: &[Tenant],
    reports: &mut Reports,
) {
    for outcome in world.outcomes() {
        if let Some(desired) = settle(agenda, outcome) {
            reports.endpoints(world, &desired);
        }
    }
    let mut decisions = Vec::new();
    for Due { desired, is_under_way } in agenda.take_due(Instant::now()) {
        reports.endpoints(world, &desired);
        if !is_under_way {
            let decision = decide(world, agenda, &desired);
            reports.conditions(&desired, decision.plan.conditions.clone());
            agenda.begins(&desired.name);
            decisions.push(decision);
        }
    }
    reports.publish(agenda, tenants);
    world.apply(decisions).await;
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

/// What to do about one deployment, and when to look at it again.
fn decide<W: World>(world: &W, agenda: &mut Agenda, desired: &Arc<Desired>) -> Decision {
    let name = &desired.name;
    let observed = world.observe(name);
    let scale = scale(world, desired, &observed, agenda.scaled(name));
    let (desired, condition, next_check) = match &scale {
        Some(scale) => {
            (Arc::new(scale.desired.clone()), Some(scale.condition.clone()), scale.next_check)
        }
        None => (Arc::clone(desired), None, NextCheck::OnChange),
    };
    let mut plan = plan(&desired, &observed, world.now());
    plan.conditions.extend(condition);
    plan.next_check = plan.next_check.min(next_check);
    if let NextCheck::In(wait) = plan.next_check {
        agenda.look_in(name, wait, Instant::now());
    }
    let scaled = scale.map(|scale| scale.scaled);
    let scaling = scaled.as_ref().map(|scaled| scaled.history.clone()).unwrap_or_default();
    agenda.remember(name, scaled);
    Decision { desired, observed, plan, scaling }
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
