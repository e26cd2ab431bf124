//! The loop: one pass per change, and one when a plan asked for it.

use std::sync::Arc;
use std::time::Duration;

use naru_api::Wishes;
use naru_plan::{Desired, Millis, NextCheck, plan};
use naru_protocol::Snapshot;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::report::{Readiness, Reports};
use crate::world::World;

/// The longest time between two passes, should an event ever be missed.
const RESYNC: Millis = Millis::from_seconds(30);
/// After an action that failed: the wait before the next pass.
const RETRY: Millis = Millis(500);
/// After an action that succeeded: the wait before looking at what became of it.
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
    loop {
        let wishes = controls.wishes.borrow_and_update().clone();
        let stop = *controls.stop.borrow_and_update();
        let desired = everything(&world, &wishes.deployments, stop);
        if stop.is_some() && world.deployments().is_empty() {
            return;
        }
        let next = pass(&mut world, &desired, &mut reports).await;
        tokio::select! {
            () = world.changed() => {}
            Ok(()) = controls.wishes.changed() => {}
            Ok(()) = controls.stop.changed() => {}
            () = sleep(Duration::from_millis(next.0)) => {}
        }
    }
}

/// The wishes, and what is left of deployments that nobody wishes any more.
fn everything<W: World>(world: &W, wishes: &[Desired], stop: Option<Millis>) -> Vec<Desired> {
    let is_wished = |left: &Desired| wishes.iter().any(|wish| wish.name == left.name);
    let left = world.deployments().into_iter().filter(|left| !is_wished(left));
    let mut desired: Vec<_> = wishes.to_vec();
    desired.extend(left.map(|left| left.without_replicas()));
    match stop {
        None => desired,
        Some(drain) => {
            desired.iter().map(|wish| Desired { drain, ..wish.without_replicas() }).collect()
        }
    }
}

/// One pass over everything. Returns when to make the next though nothing changes.
async fn pass<W: World>(world: &mut W, desired: &[Desired], reports: &mut Reports) -> Millis {
    let mut next = RESYNC;
    for desired in desired {
        let observed = world.observe(&desired.name);
        let plan = plan(desired, &observed, world.now());
        for action in plan.actions {
            next = next.min(match world.apply(desired, action).await {
                Ok(()) => AGAIN,
                Err(error) => {
                    let deployment = desired.name.to_string();
                    let error = one_line(&error);
                    tracing::error!(deployment, ?action, error, "an action failed");
                    RETRY
                }
            });
        }
        if let NextCheck::In(wait) = plan.next_check {
            next = next.min(wait);
        }
        reports.conditions(desired, plan.conditions);
    }
    reports.publish(world, desired);
    next
}

/// An error and what caused it, in one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
