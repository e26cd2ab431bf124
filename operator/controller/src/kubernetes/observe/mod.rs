//! From what was seen of a replica's objects to what the planner decides on. Pure.

mod member;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use naru_plan::{Moment, PendingReason, Phase, Replica, WorkerFailure, group};
use naru_protocol::Endpoint;
use naru_protocol::worker::v1::StatusReport;

pub(super) use self::member::{Member, container};
use super::labels::{self, DRAIN_SINCE, HTTP_PORT};

/// What counts of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeState {
    /// Its kubelet reports, and reports that all is well.
    pub(super) is_ready: bool,
    /// Since when.
    pub(super) since: Moment,
    /// It takes no new pods: somebody is clearing it.
    pub(super) is_cordoned: bool,
}

/// What a member itself told, over its own stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The last report.
    pub(super) report: StatusReport,
    /// Whether the stream still stands.
    pub(super) is_live: bool,
    /// Whether it has ever said that it is ready.
    pub(super) has_served: bool,
    /// Whether its stream ended after it had said that it drains: it is done.
    pub(super) has_drained: bool,
}

/// The objects of one replica, and what its members told.
#[derive(Clone)]
pub(super) struct Parts<'a> {
    pub(super) set: &'a StatefulSet,
    /// In their order; there is always the first.
    pub(super) members: Vec<Member<'a>>,
    /// It was made for an earlier deployment of the same name, and goes.
    is_foreign: bool,
    now: Moment,
}

/// What belongs to one member.
#[derive(Clone, Copy, Default)]
pub(super) struct Found<'a> {
    pub(super) pod: Option<&'a Pod>,
    /// The node the pod is on; `None`: it is on none, or on one that does not exist.
    pub(super) node: Option<NodeState>,
    pub(super) told: Option<&'a Told>,
    /// Why its pod could not be made, or be started by its node, when that was last tried.
    pub(super) trouble: Option<&'a PendingReason>,
}

/// The state of a node.
pub(super) fn node(node: &Node) -> NodeState {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    NodeState {
        is_ready: ready.is_some_and(|condition| condition.status == "True"),
        since: ready.and_then(|c| c.last_transition_time.as_ref()).map_or(Moment(0), moment),
        is_cordoned: node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)),
    }
}

/// A replica as the planner sees it; `None` when the object is not one of ours.
pub(super) fn replica(parts: &Parts<'_>) -> Option<Replica> {
    let (set, members) = (parts.set, parts.seen());
    let phase = parts.phase(&members);
    Some(Replica {
        id: labels::replica_of(set)?,
        revision: labels::revision_of(set)?,
        has_served: phase == Phase::Ready || parts.has_served(),
        created: set.metadata.creation_timestamp.as_ref().map_or(parts.now, moment),
        ready_since: parts.ready_since().filter(|_| phase == Phase::Ready),
        phase,
        drain_since: drain_since(set, parts.is_foreign),
        failures: group::failures(&members),
        displaced: parts.is_displaced(),
    })
}

/// Where a replica answers: member 0. Without an address it is not ready.
pub(super) fn endpoint(parts: &Parts<'_>) -> Endpoint {
    let ip = parts.first().pod.and_then(pod_ip);
    let is_draining = drain_since(parts.set, parts.is_foreign).is_some();
    Endpoint {
        replica: parts.set.name_any(),
        address: ip.map(|ip| socket(ip, HTTP_PORT)).unwrap_or_default(),
        ready: ip.is_some() && parts.phase(&parts.seen()) == Phase::Ready,
        draining: is_draining || parts.members.iter().any(Member::is_terminating),
    }
}

/// Whose order it is to drain, if the replica does and has a worker that can be told so.
pub(super) fn drains<'a>(parts: &Parts<'a>) -> Option<&'a Pod> {
    drain_since(parts.set, parts.is_foreign)?;
    parts.first().pod
}

/// When a replica was told to drain. One that is being deleted drains for the last time.
fn drain_since(set: &StatefulSet, is_foreign: bool) -> Option<Moment> {
    let noted = set.annotations().get(DRAIN_SINCE);
    let noted = noted.and_then(|text| parse_time(text));
    let deleted = set.metadata.deletion_timestamp.as_ref().map(moment);
    noted.or(deleted).or(is_foreign.then_some(Moment(0)))
}

/// `host:port`; an IPv6 address is set in brackets.
pub(super) fn socket(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// The address of a pod that has one.
pub(super) fn pod_ip(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|ip| !ip.is_empty())
}

impl<'a> Parts<'a> {
    /// `member` finds what belongs to the pod of a name.
    pub(super) fn new(
        set: &'a StatefulSet,
        is_foreign: bool,
        now: Moment,
        member: impl Fn(&str) -> Found<'a>,
    ) -> Self {
        let drain_since = drain_since(set, is_foreign);
        let members = labels::pods_of(set).into_iter().map(|name| {
            let Found { pod, node, told, trouble } = member(&name);
            Member { name, pod, node, told, trouble, drain_since, now }
        });
        Self { set, members: members.collect(), is_foreign, now }
    }

    /// Member 0, which answers for all.
    pub(super) fn first(&self) -> &Member<'a> {
        self.members.first().expect("a replica has a member")
    }

    fn seen(&self) -> Vec<group::Member> {
        self.members.iter().map(Member::seen).collect()
    }

    fn phase(&self, members: &[group::Member]) -> Phase {
        if self.is_foreign {
            let failure = WorkerFailure::Ended("its model deployment is gone".to_owned());
            return Phase::Stopped { at: self.now, failure };
        }
        let drains = drain_since(self.set, false).is_some();
        group::phase(labels::parallelism_of(self.set), members, drains, self.has_served())
    }

    fn has_served(&self) -> bool {
        self.first().has_served()
    }

    /// Another replica has to take over. One that was never placed whole takes nobody's place.
    fn is_displaced(&self) -> bool {
        let members = || self.members.iter();
        let is_placed = || members().all(Member::is_placed);
        members().any(Member::loses_its_node)
            || (members().any(Member::is_terminating) && is_placed())
    }

    /// Since when the last of its members has been ready.
    fn ready_since(&self) -> Option<Moment> {
        let since: Option<Vec<_>> = self.members.iter().map(Member::ready_since).collect();
        since?.into_iter().max()
    }
}

/// A time of the cluster as the planner counts it.
pub(super) fn moment(time: &Time) -> Moment {
    from_timestamp(time.0)
}

/// A time as naru notes it on objects.
pub(super) fn parse_time(text: &str) -> Option<Moment> {
    text.parse::<Timestamp>().ok().map(from_timestamp)
}

fn from_timestamp(timestamp: Timestamp) -> Moment {
    Moment(u64::try_from(timestamp.as_millisecond()).unwrap_or(0))
}

/// A time of the planner as the cluster writes it.
pub(super) fn time(moment: Moment) -> Timestamp {
    let millis = i64::try_from(moment.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

/// Nodes by name.
pub(super) type Nodes = BTreeMap<String, NodeState>;

#[cfg(test)]
mod tests;
