//! The words by which naru's objects in a cluster are known: labels, annotations, ports.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt;
use naru_plan::{DeploymentName, Parallelism, ReplicaId, Revision};

/// Who writes the fields of the objects that make up a replica.
pub(super) const OBJECTS_MANAGER: &str = "naru.dev/model-deployment";
/// Who notes on a StatefulSet that its replica drains, or that its members were withdrawn.
pub(super) const DRAIN_MANAGER: &str = "naru.dev/drain";
/// Who writes the status of a model deployment.
pub(super) const STATUS_MANAGER: &str = "naru.dev/status";

/// What selects everything that naru made.
pub(super) const MANAGED: &str = "app.kubernetes.io/managed-by=naru";

pub(super) const DEPLOYMENT: &str = "naru.dev/model-deployment";
pub(super) const REPLICA: &str = "naru.dev/replica";
/// The label by which a StatefulSet numbers its pods: which member it is.
pub(super) const MEMBER: &str = "apps.kubernetes.io/pod-index";
pub(super) const REVISION: &str = "naru.dev/revision";

/// When a replica was told to drain, in RFC 3339.
pub(super) const DRAIN_SINCE: &str = "naru.dev/drain-since";
/// When the members of a group were withdrawn last, in RFC 3339.
pub(super) const WITHDRAWN: &str = "naru.dev/withdrawn";
/// Since when a member of a group has looked for a node, in RFC 3339.
pub(super) const PLACING_SINCE: &str = "naru.dev/placing-since";
/// The names that a replica answers to, separated by commas.
pub(super) const SERVED_NAMES: &str = "naru.dev/served-names";

/// How many ranks each member of a replica holds; not there: one.
pub(super) const DEVICES_PER_MEMBER: &str = "naru.dev/devices-per-member";

/// The power budget that a replica is charged to, and its watts.
pub(super) const CHARGED_BUDGET: &str = "naru.dev/charged-power-budget";
pub(super) const CHARGED_WATTS: &str = "naru.dev/charged-watts";

/// The label by which Kubernetes says in which zone a node is.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// Where a member listens: OpenAI's API, the operator's gRPC, its first rank's links to
/// others, metrics and probes.
pub(super) const HTTP_PORT: i32 = 8000;
pub(super) const CONTROL_PORT: i32 = 8001;
pub(super) const LINKS_PORT: i32 = 8002;
pub(super) const OPS_PORT: i32 = 9090;

/// What an object bears that is for all deployments of a namespace.
pub(super) fn of_naru() -> BTreeMap<String, String> {
    let labels = [("app.kubernetes.io/name", "naru"), ("app.kubernetes.io/managed-by", "naru")];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// What every object of a deployment bears.
pub(super) fn of_deployment(name: &DeploymentName) -> BTreeMap<String, String> {
    let labels = [
        ("app.kubernetes.io/name", "naru-worker"),
        ("app.kubernetes.io/managed-by", "naru"),
        (DEPLOYMENT, name.name()),
    ];
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// What the objects of one replica bear besides.
pub(super) fn of_replica(
    name: &DeploymentName,
    id: ReplicaId,
    revision: Revision,
) -> BTreeMap<String, String> {
    let mut labels = of_deployment(name);
    labels.insert(REPLICA.to_owned(), id.to_string());
    labels.insert(REVISION.to_owned(), revision.to_string());
    labels
}

/// What selects member 0 of each replica; an autoscaler that counts these counts replicas.
pub(super) fn selector(name: &DeploymentName) -> String {
    format!("{DEPLOYMENT}={},{MEMBER}=0", name.name())
}

/// The deployment that an object was made for; `None` when its labels name none.
pub(super) fn deployment_of<K: ResourceExt>(object: &K) -> Option<DeploymentName> {
    let name = object.labels().get(DEPLOYMENT)?;
    DeploymentName::parse(&object.namespace()?, name).ok()
}

/// The replica that an object was made for.
pub(super) fn replica_of<K: ResourceExt>(object: &K) -> Option<ReplicaId> {
    object.labels().get(REPLICA)?.parse().ok().map(ReplicaId)
}

/// The template that an object was made from.
pub(super) fn revision_of<K: ResourceExt>(object: &K) -> Option<Revision> {
    u64::from_str_radix(object.labels().get(REVISION)?, 16).ok().map(Revision)
}

/// The name of a replica, and of its StatefulSet.
pub(super) fn replica_name(name: &DeploymentName, id: ReplicaId) -> String {
    format!("{}-{id}", name.name())
}

/// The names of the pods of a replica's members, in their order; there is always the first.
pub(super) fn pods_of(set: &StatefulSet) -> Vec<String> {
    (0..members_of(set)).map(|member| format!("{}-{member}", set.name_any())).collect()
}

/// Members of a replica.
pub(super) fn members_of(set: &StatefulSet) -> u32 {
    set.spec.replicas.and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(1).max(1)
}

/// How many ranks a replica has, and its members; not how it is cut into them.
pub(super) fn parallelism_of(set: &StatefulSet) -> Parallelism {
    let each = set.annotations().get(DEVICES_PER_MEMBER).and_then(|each| each.parse().ok());
    let each: u32 = each.unwrap_or(1);
    let ranks = members_of(set).saturating_mul(each);
    Parallelism::new(ranks, 1, each).unwrap_or_default()
}

/// The headless Service that gives members stable names.
pub(super) fn service_name(name: &DeploymentName) -> String {
    format!("{}-members", name.name())
}
