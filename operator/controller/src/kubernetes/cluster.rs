//! Everything that was seen of the cluster: the reflected objects, and the wishes in them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::events::v1::Event as Happening;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use naru_api::name_taken;
use naru_plan::{
    DeploymentName, Desired, Moment, Observed, PendingReason, Phase, Reason, Replica, Revision,
};
use naru_protocol::Endpoint;

use super::follow::Members;
use super::gang::{self, Group, Orders};
use super::observe::{self, Found, Nodes, Parts};
use super::placement::Placement;
use super::power::PowerBudgets;
use super::roster;
use super::shelf::Shelf;
use super::tenants::Tenants;
use super::troubles::{self, Failure, Troubles};
use super::{build, labels};
use crate::world::Changed;

/// One thing that a watch told.
pub(super) enum Seen {
    Deployment(Event<DynamicObject>),
    Set(Event<StatefulSet>),
    Pod(Event<Pod>),
    Service(Event<Service>),
    Budget(Event<PodDisruptionBudget>),
    Node(Event<Node>),
    Tenant(Event<DynamicObject>),
    FailedCreate(Event<Happening>),
    FailedMount(Event<Happening>),
    FailedSandbox(Event<Happening>),
    PowerBudget(Event<DynamicObject>),
}

/// What was seen last.
pub(super) struct Cluster {
    pub(super) deployments: Shelf<DynamicObject>,
    pub(super) sets: Shelf<StatefulSet>,
    pub(super) pods: Shelf<Pod>,
    pub(super) services: Shelf<Service>,
    pub(super) budgets: Shelf<PodDisruptionBudget>,
    pub(super) tenants: Tenants,
    failed_creates: Troubles,
    failed_mounts: Troubles,
    failed_sandboxes: Troubles,
    pub(super) power: PowerBudgets,
    nodes: Nodes,
    placement: Placement,
    listed_nodes: Option<BTreeSet<String>>,
    has_nodes: bool,
    wishes: BTreeMap<DeploymentName, Wish>,
    has_new_wishes: bool,
}

/// What one object wishes, or why that has no meaning.
#[derive(PartialEq)]
struct Wish {
    parsed: Result<Desired, String>,
    owner: OwnerReference,
    created: Moment,
}

/// Why a deployment is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self {
            deployments: Shelf::new(own_name),
            sets: Shelf::new(labels::deployment_of),
            pods: Shelf::new(labels::deployment_of),
            services: Shelf::new(labels::deployment_of),
            budgets: Shelf::new(labels::deployment_of),
            tenants: Tenants::default(),
            failed_creates: Troubles::of_creates(),
            failed_mounts: Troubles::of_mounts(),
            failed_sandboxes: Troubles::of_sandboxes(),
            power: PowerBudgets::default(),
            nodes: Nodes::new(),
            placement: Placement::default(),
            listed_nodes: None,
            has_nodes: false,
            wishes: BTreeMap::new(),
            has_new_wishes: true,
        }
    }

    /// Whether everything that exists has been seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.deployments.is_complete()
            && self.sets.is_complete()
            && self.pods.is_complete()
            && self.services.is_complete()
            && self.budgets.is_complete()
            && self.tenants.is_complete()
            && self.power.is_complete()
            && self.has_nodes
    }

    /// Takes what a watch told; returns the deployments it is about.
    pub(super) fn take(&mut self, seen: Seen) -> Changed {
        Changed::Only(match seen {
            Seen::Deployment(event) => self.take_deployment(event),
            Seen::Set(event) => self.sets.take(event),
            Seen::Pod(event) => {
                if let Event::InitApply(pod) | Event::Apply(pod) = &event {
                    self.failed_creates.made(pod);
                }
                self.placement.pods_changed();
                self.pods.take(event)
            }
            Seen::Service(event) => self.services.take(event),
            Seen::Budget(event) => self.budgets.take(event),
            Seen::FailedCreate(event) => {
                let failed = self.failed_creates.take(event);
                let has_failed = |set: &&StatefulSet| {
                    set.metadata.uid.as_ref().is_some_and(|uid| failed.contains(uid))
                };
                let sets = self.sets.all().filter(|_| !failed.is_empty()).filter(has_failed);
                sets.filter_map(labels::deployment_of).collect()
            }
            Seen::FailedMount(event) if self.is_own(&event) => {
                let failed = self.failed_mounts.take(event);
                self.with_pods(&failed)
            }
            Seen::FailedSandbox(event) if self.is_own(&event) => {
                let failed = self.failed_sandboxes.take(event);
                self.with_pods(&failed)
            }
            Seen::FailedMount(_) | Seen::FailedSandbox(_) => BTreeSet::new(),
            Seen::Node(event) => self.take_node(event),
            Seen::Tenant(event) => {
                self.tenants.take(event);
                self.has_new_wishes |= self.tenants.take_news();
                BTreeSet::new()
            }
            Seen::PowerBudget(event) => {
                self.power.take(event);
                self.has_new_wishes |= self.power.take_news();
                BTreeSet::new()
            }
        })
    }

    /// Whether an event is about a pod of ours, or may be: those of others may be many.
    fn is_own(&self, event: &Event<Happening>) -> bool {
        let Some(uid) = troubles::about(event) else { return true };
        let has_uid = |pod: &Pod| pod.metadata.uid.as_deref() == Some(uid);
        !self.pods.is_complete() || self.pods.all().any(has_uid)
    }

    /// The deployments whose pods these are, by their uids.
    fn with_pods(&self, uids: &BTreeSet<String>) -> BTreeSet<DeploymentName> {
        let is_one = |pod: &&Pod| pod.metadata.uid.as_ref().is_some_and(|uid| uids.contains(uid));
        let pods = self.pods.all().filter(|_| !uids.is_empty()).filter(is_one);
        pods.filter_map(labels::deployment_of).collect()
    }

    /// What keeps a StatefulSet from making its pod, or the pod that it made from being started.
    fn trouble(&self, set: &StatefulSet, pod: Option<&Pod>) -> Option<&PendingReason> {
        let failure: Option<&Failure> = match pod {
            None => self.failed_creates.of(set.metadata.uid.as_deref()?),
            Some(pod) => {
                let uid = pod.metadata.uid.as_deref()?;
                let both = [self.failed_mounts.of(uid), self.failed_sandboxes.of(uid)];
                both.into_iter().flatten().max_by_key(|failure| failure.time)
            }
        };
        failure.map(|failure| &failure.why)
    }

    fn take_deployment(&mut self, event: Event<DynamicObject>) -> BTreeSet<DeploymentName> {
        let mut parsed = None;
        let event = event.modify(|object| {
            parsed = Some(roster::read(object, naru_api::parse));
            keep_status(object);
        });
        let names = self.deployments.take(event);
        for name in &names {
            self.read_wish(name, parsed.take());
        }
        names
    }

    fn read_wish(&mut self, name: &DeploymentName, parsed: Option<Result<Desired, String>>) {
        let object = self.deployments.get(name, name.name());
        let object = object.filter(|object| object.metadata.deletion_timestamp.is_none());
        let (Some(object), Some(parsed)) = (object, parsed) else {
            // The garbage collector does the rest.
            self.has_new_wishes |= self.wishes.remove(name).is_some();
            return;
        };
        let created = object.creation_timestamp().as_ref().map_or(Moment(0), observe::moment);
        let owner = build::owner(&object.metadata);
        let wish = Wish { parsed, owner, created };
        if self.wishes.get(name) != Some(&wish) {
            self.wishes.insert(name.clone(), wish);
            self.has_new_wishes = true;
        }
    }

    /// Whether wishes have changed since this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_new_wishes)
    }

    fn take_node(&mut self, event: Event<Node>) -> BTreeSet<DeploymentName> {
        let mut touched = BTreeSet::new();
        let mut is_other_place = false;
        match event {
            Event::Init => self.listed_nodes = Some(BTreeSet::new()),
            Event::InitApply(node) | Event::Apply(node) => {
                let (name, state) = (node.name_any(), observe::node(&node));
                if let Some(listed) = &mut self.listed_nodes {
                    listed.insert(name.clone());
                }
                is_other_place = self.placement.take(&name, &node);
                if self.nodes.insert(name.clone(), state) != Some(state) {
                    touched.insert(name);
                }
            }
            Event::InitDone => {
                self.has_nodes = true;
                if let Some(listed) = self.listed_nodes.take() {
                    let gone = self.nodes.extract_if(.., |name, _| !listed.contains(name));
                    for (name, _) in gone {
                        is_other_place |= self.placement.forget(&name);
                        touched.insert(name);
                    }
                }
            }
            Event::Delete(node) => {
                self.nodes.remove(&node.name_any());
                is_other_place = self.placement.forget(&node.name_any());
                touched.insert(node.name_any());
            }
        }
        if touched.is_empty() && !is_other_place {
            return BTreeSet::new();
        }
        // Those that have no node are told again why each refuses them.
        let on_these =
            |pod: &&Pod| node_name(pod).map_or(is_other_place, |node| touched.contains(node));
        self.pods.all().filter(on_these).filter_map(labels::deployment_of).collect()
    }

    /// Every wish that can be planned, and why each of the others cannot: its object says
    /// something without meaning, or a name that an earlier one has.
    pub(super) fn wishes(&self) -> (Vec<Desired>, BTreeMap<DeploymentName, Refusal>) {
        let mut by_age: Vec<_> = self.wishes.iter().collect();
        by_age.sort_by_key(|(name, wish)| (wish.created, *name));
        let mut taken = BTreeMap::new();
        let (mut wishes, mut refusals) = (Vec::new(), BTreeMap::new());
        for (name, wish) in by_age {
            let refuse = |reason, message| Refusal { reason, message };
            let desired = match &wish.parsed {
                Ok(desired) => desired,
                Err(words) => {
                    refusals.insert(name.clone(), refuse(Reason::SpecInvalid, words.clone()));
                    continue;
                }
            };
            let served = || desired.template.names.iter();
            let conflict = served().find_map(|served| Some((served, taken.get(served)?)));
            if let Some((served, other)) = conflict {
                let other: &&DeploymentName = other;
                let words = name_taken(served.as_str(), &other.to_string());
                refusals.insert(name.clone(), refuse(Reason::NameTaken, words));
                continue;
            }
            taken.extend(served().map(|served| (served, name)));
            wishes.push(desired.clone());
        }
        (wishes, refusals)
    }

    /// Whose the objects of a deployment are; `None` once it is gone.
    pub(super) fn owner(&self, name: &DeploymentName) -> Option<&OwnerReference> {
        self.wishes.get(name).map(|wish| &wish.owner)
    }

    /// What is wished of the deployment; `None`: it is gone, or has no meaning.
    pub(super) fn wish(&self, name: &DeploymentName) -> Option<&Desired> {
        self.wishes.get(name)?.parsed.as_ref().ok()
    }

    /// When the deployment was created.
    pub(super) fn created(&self, name: &DeploymentName) -> Moment {
        self.wishes.get(name).map_or(Moment(0), |wish| wish.created)
    }

    /// The replicas of one deployment with all that is known of each.
    pub(super) fn parts<'a>(
        &'a self,
        name: &DeploymentName,
        members: &'a Members,
        now: Moment,
    ) -> impl Iterator<Item = Parts<'a>> + use<'a> {
        let name = name.clone();
        let sets = self.sets.of(&name);
        sets.map(move |set| {
            let owner = self.owner(&name);
            let is_foreign = owner.is_some_and(|owner| is_owned_by_another(set, &owner.uid));
            Parts::new(set, is_foreign, now, |pod| {
                let pod = self.pods.get(&name, pod);
                let node = pod.and_then(node_name).and_then(|node| self.nodes.get(node)).copied();
                let told = pod.and_then(|pod| members.told(&name, pod.metadata.uid.as_deref()?));
                Found { pod, node, told, trouble: self.trouble(set, pod) }
            })
        })
    }

    /// What runs of one deployment.
    pub(super) fn observe(
        &self,
        name: &DeploymentName,
        members: &Members,
        now: Moment,
    ) -> Observed {
        let mut lines = BTreeMap::new();
        let replica = |parts: Parts<'_>| {
            let mut replica = observe::replica(&parts)?;
            self.name_refusals(&mut replica, &parts, &mut lines);
            Some(replica)
        };
        let replicas = self.parts(name, members, now).filter_map(replica).collect();
        Observed { replicas, memory_free: None }
    }

    /// Which groups of members are let through to nodes, and which are withdrawn.
    pub(super) fn group_orders(&self, now: Moment) -> Orders<'_> {
        let groups: Vec<_> = self.sets.all().filter_map(|set| self.group(set)).collect();
        gang::decide(&groups, &self.placement, self.pods.all(), now)
    }

    fn group<'a>(&'a self, set: &'a StatefulSet) -> Option<Group<'a>> {
        Group::of(set, |pod| self.pods.get(&labels::deployment_of(set)?, pod))
    }

    /// Says of a replica without a node why each refuses it, where only the scheduler's words are.
    /// All of one template are refused alike: `lines` holds what was said of each.
    fn name_refusals(
        &self,
        replica: &mut Replica,
        parts: &Parts<'_>,
        lines: &mut BTreeMap<Revision, String>,
    ) {
        let Phase::Pending { why } = &mut replica.phase else { return };
        if *why == PendingReason::Placing {
            let group = self.group(parts.set);
            let lacks = group.and_then(|it| it.lacks_room(&self.placement, self.pods.all()));
            *why = lacks.map_or(PendingReason::Placing, PendingReason::Unschedulable);
            return;
        }
        let PendingReason::Unschedulable(words) = why else { return };
        let mut pods = parts.members.iter().filter_map(|member| member.pod);
        if let Some(pod) = pods.find(|pod| node_name(pod).is_none()) {
            let line = || self.placement.refusals(pod, self.pods.all(), words);
            *words = lines.entry(replica.revision).or_insert_with(line).clone();
        }
    }

    /// Where those replicas answer that serve the present names.
    pub(super) fn endpoints(
        &self,
        desired: &Desired,
        members: &Members,
        now: Moment,
    ) -> Vec<Endpoint> {
        let names = build::served_names(desired);
        self.parts(&desired.name, members, now)
            .filter(|parts| parts.set.annotations().get(labels::SERVED_NAMES) == Some(&names))
            .filter(|parts| labels::replica_of(parts.set).is_some())
            .filter(|parts| labels::revision_of(parts.set).is_some())
            .map(|parts| observe::endpoint(&parts))
            .collect()
    }

    /// The members of a deployment: by the uid of their pod, `host:port` of their gRPC while they
    /// run.
    pub(super) fn members(&self, name: &DeploymentName) -> BTreeMap<String, Option<String>> {
        let runs = |pod: &Pod| {
            let state = observe::container(pod).and_then(|container| container.state.as_ref());
            state.is_some_and(|state| state.running.is_some())
        };
        let member = |pod: &Pod| {
            let ip = observe::pod_ip(pod).filter(|_| runs(pod));
            let address = ip.map(|ip| observe::socket(ip, labels::CONTROL_PORT));
            Some((pod.metadata.uid.clone()?, address))
        };
        self.pods.of(name).filter_map(member).collect()
    }
}

/// Leaves of an object what is looked at again: the wish in it has been read.
fn keep_status(object: &mut DynamicObject) {
    object.metadata.annotations = None;
    if let Some(fields) = object.data.as_object_mut() {
        fields.retain(|field, _| field == "status");
    }
}

fn own_name(object: &DynamicObject) -> Option<DeploymentName> {
    DeploymentName::parse(&object.namespace()?, &object.name_any()).ok()
}

pub(super) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether an object belongs to a model deployment of the same name that is gone.
fn is_owned_by_another(set: &StatefulSet, uid: &str) -> bool {
    let owners = set.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.any(|owner| owner.uid != uid)
}
