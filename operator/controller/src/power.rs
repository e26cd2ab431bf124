//! What the power budgets allow: everybody who draws from them, seen together.

use std::collections::BTreeMap;

use naru_api::Wishes;
use naru_plan::power::{self, Consumer, Fleet, FleetPlan};
use naru_plan::{DeploymentName, Moment};

use crate::agenda::Agenda;
use crate::reconcile::Draft;
use crate::world::World;

/// Shares the budgets out among all deployments; those with a draft as it says, the others as
/// they were wished and are seen.
pub(crate) fn share<W: World>(
    world: &W,
    agenda: &Agenda,
    wishes: &Wishes,
    drafts: &[Draft],
) -> FleetPlan {
    let now = world.wall_clock();
    let drafts = drafts.iter().map(|draft| (&draft.desired.name, draft));
    let drafts: BTreeMap<_, _> = drafts.collect();
    let created = |name: &DeploymentName| match world.created_unix_seconds(name) {
        0 => now, // what was not there before is the youngest
        seconds => Moment(seconds.saturating_mul(1000)),
    };
    let draws = agenda.desired().filter(|desired| desired.power.is_some());
    let consumers = draws.filter_map(|desired| {
        let name = &desired.name;
        if let Some(Draft { desired, observed, .. }) = drafts.get(name) {
            return Consumer::of(desired, desired.replicas, observed, created(name));
        }
        let scaled = agenda.scaled(name).map(|scaled| scaled.wished());
        let wished = scaled.unwrap_or(desired.replicas);
        let consumer = Consumer::of(desired, wished, &world.observe(name), created(name));
        // What is being made may not be seen yet.
        let expected = agenda.expected(name);
        consumer.map(|it| Consumer { staying: it.staying.max(expected), ..it })
    });
    let consumers = consumers.collect();
    // Most clusters have no budgets, and this is done on every pass.
    let leftovers = if wishes.power_budgets.is_empty() {
        Vec::new()
    } else {
        world.leftovers(&agenda.desired().map(|desired| &desired.name).collect())
    };
    power::plan(&Fleet { budgets: wishes.power_budgets.clone(), consumers, leftovers }, now)
}
