//! Groups of members that are placed together, or not at all: a replica of several pods that has
//! devices for half of them keeps these from everybody. Pure.
//!
//! ```text
//! pods are made with a gate ──► all are there, and there is room ──► gates lifted, of all at once
//!          ▲ after another minute                                                │
//!          └──── withdrawn: all deleted ◄── one has no node after a minute ◄─────┘
//! ```
//!
//! One group at a time looks for nodes: of two that do, each could get a half. What is known of
//! room are nodes and naru's own pods; where pods of others are in the way, time tells.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use naru_plan::{Millis, Moment};

use super::cluster::node_name;
use super::labels::{self, PLACING_SINCE};
use super::observe;
use super::placement::Placement;

/// The gate that keeps a member from being placed before the others can be.
pub(super) const GATE: &str = "naru.dev/group";
/// A group that has not found nodes for all its members by then is withdrawn.
const PLACING_MAX: Millis = Millis::from_seconds(60);

/// So long a group waits that was withdrawn: what it lacked is not seen from here.
const WITHDRAWN_PAUSE: Millis = Millis::from_seconds(60);

/// The pods of one replica of several members.
pub(super) struct Group<'a> {
    pub(super) set: &'a StatefulSet,
    /// Those that there are, without those on their way out.
    pods: Vec<&'a Pod>,
    is_whole: bool,
}

/// What to do to the pods of one group.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    /// Let them be placed.
    Lift(Vec<Pod>),
    /// Delete them all: new ones wait at the gate again.
    Withdraw(Vec<Pod>),
}

/// What to do about all groups, and when to look again though nothing has changed.
#[derive(Default)]
pub(super) struct Orders<'a> {
    pub(super) orders: Vec<(&'a StatefulSet, Order)>,
    pub(super) next_check: Option<Moment>,
}

impl<'a> Group<'a> {
    /// `None`: the replica has one member, or goes. `pod` finds a pod by its name.
    pub(super) fn of(set: &'a StatefulSet, pod: impl Fn(&str) -> Option<&'a Pod>) -> Option<Self> {
        let goes = set.metadata.deletion_timestamp.is_some()
            || set.annotations().contains_key(labels::DRAIN_SINCE);
        let members = labels::members_of(set);
        if members == 1 || goes {
            return None;
        }
        let names = labels::pods_of(set);
        let pods = names.iter().filter_map(|name| pod(name));
        let pods: Vec<_> = pods.filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        let is_whole = pods.len() == names.len();
        Some(Self { set, pods, is_whole })
    }

    /// Those that wait at the gate.
    fn gated(&self) -> Vec<&'a Pod> {
        self.pods.iter().copied().filter(|pod| is_gated(pod)).collect()
    }

    /// Since when one of them has looked for a node and has none.
    fn placing_since(&self) -> Option<Moment> {
        let placing = self.pods.iter().filter(|pod| !is_gated(pod) && node_name(pod).is_none());
        let since = |pod: &&Pod| {
            let noted = pod.annotations().get(PLACING_SINCE);
            let created = || pod.creation_timestamp().as_ref().map_or(Moment(0), observe::moment);
            noted.and_then(|text| observe::parse_time(text)).unwrap_or_else(created)
        };
        placing.map(since).min()
    }

    /// Until when it waits because it was withdrawn.
    fn pauses_until(&self) -> Option<Moment> {
        let withdrawn = self.set.annotations().get(labels::WITHDRAWN);
        let withdrawn = withdrawn.and_then(|text| observe::parse_time(text))?;
        Some(withdrawn.after(WITHDRAWN_PAUSE))
    }

    /// Whoever was made last waits longest: also those that were withdrawn.
    fn turn(&self) -> (Moment, String, String) {
        let made = self.pods.iter().filter_map(|pod| pod.creation_timestamp());
        let made = made.map(|time| observe::moment(&time)).max().unwrap_or(Moment(0));
        (made, self.set.namespace().unwrap_or_default(), self.set.name_any())
    }

    /// Why none of those at the gate is placed; `None`: they will be, or the group is not whole.
    pub(super) fn lacks_room<'p>(
        &self,
        placement: &Placement,
        pods: impl Iterator<Item = &'p Pod> + Clone,
    ) -> Option<String> {
        let gated = self.gated();
        let first = gated.first().filter(|_| self.is_whole)?;
        let (room, wanted) = (placement.room_for(&gated, pods.clone()), gated.len());
        let none = || placement.refusals(first, pods, "");
        match room {
            room if room == wanted => None,
            0 => Some(none()),
            room => Some(format!(
                "{wanted} members have to be placed together, and there is room for {room}"
            )),
        }
    }
}

/// Which groups are let through, and which have had their time. `pods` are all that naru made.
pub(super) fn decide<'a, 'p>(
    groups: &[Group<'a>],
    placement: &Placement,
    pods: impl Iterator<Item = &'p Pod> + Clone,
    now: Moment,
) -> Orders<'a> {
    let mut orders = Orders::default();
    let mut is_placing = false;
    for group in groups {
        let Some(since) = group.placing_since() else { continue };
        let deadline = since.after(PLACING_MAX);
        if deadline <= now {
            orders.orders.push((group.set, Order::Withdraw(copies(&group.pods))));
        } else {
            is_placing = true;
            orders.next_check = orders.next_check.into_iter().chain([deadline]).min();
        }
    }
    if is_placing {
        return orders;
    }
    let waits = |group: &&Group<'_>| {
        group.is_whole && !group.gated().is_empty() && group.placing_since().is_none()
    };
    let paused = groups.iter().filter(waits).filter_map(Group::pauses_until);
    let over = paused.filter(|until| *until > now).min();
    orders.next_check = orders.next_check.into_iter().chain(over).min();
    let is_free = |group: &&Group<'_>| group.pauses_until().is_none_or(|until| until <= now);
    let mut waiting: Vec<_> = groups.iter().filter(waits).filter(is_free).collect();
    waiting.sort_by_key(|group| group.turn());
    let next = waiting.into_iter().find(|group| {
        let gated = group.gated();
        placement.room_for(&gated, pods.clone()) == gated.len()
    });
    orders.orders.extend(next.map(|group| (group.set, Order::Lift(copies(&group.gated())))));
    orders
}

fn copies(pods: &[&Pod]) -> Vec<Pod> {
    pods.iter().map(|pod| (*pod).clone()).collect()
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| gates.iter().any(|gate| gate.name == GATE))
}

#[cfg(test)]
#[path = "gang_tests.rs"]
mod tests;
