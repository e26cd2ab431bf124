//! From a wish to the objects that a cluster makes true. Pure, and cannot fail.
//!
//! ```text
//! ModelDeployment x ──► Service x-members, PodDisruptionBudget x
//!      replica N    ──► StatefulSet x-N ──► pods x-N-0, x-N-1, … one for each member
//! ```

mod gpu;
mod group;
mod pod;

pub(super) use pod::CONTAINER;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Service, ServicePort, ServiceSpec,
    VolumeResourceRequirements,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use naru_api::ModelDeployment;
use naru_plan::{Desired, Program, ReplicaCount, ReplicaId};

use super::labels::{self, CONTROL_PORT, HTTP_PORT, OPS_PORT};
use super::power;

/// The claim of each namespace in which its workers keep weights.
pub(super) const CACHE_CLAIM: &str = "naru-weights";

/// Where workers keep what they fetched, beyond the life of a pod.
#[derive(Clone, Debug)]
pub struct WeightsCache {
    /// The StorageClass of the claims.
    pub storage_class: String,
    /// How large they are, as Kubernetes writes quantities.
    pub size: String,
    /// How they may be mounted: `ReadWriteMany`, `ReadWriteOnce`.
    pub access_mode: String,
}

/// What is the same for every worker that this operator makes.
#[derive(Clone, Debug)]
pub struct WorkerImage {
    /// The image of `naru-worker`.
    pub image: String,
    /// When nodes fetch it: `IfNotPresent`, `Always` or `Never`.
    pub pull_policy: String,
    /// Whether workers are given the certificate `naru-worker-tls` of their namespace.
    pub has_tls: bool,
    /// Variables that every worker is given, unless its own wish says them: a proxy, a mirror.
    pub env: BTreeMap<String, String>,
    /// `None`: each pod keeps weights for itself, as long as it lives.
    pub cache: Option<WeightsCache>,
}

impl WorkerImage {
    /// The wish, to be made true by this image: where replicas are of another one, this one's take
    /// over, so that an upgrade reaches the workers too.
    pub(super) fn make(&self, mut wish: Desired) -> Desired {
        wish.template.program = Program(self.image.clone());
        wish
    }
}

/// A reference that lets an object go when its model deployment does.
pub(super) fn owner(deployment: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: ModelDeployment::api_version(&()).into_owned(),
        kind: ModelDeployment::kind(&()).into_owned(),
        name: deployment.name.clone().unwrap_or_default(),
        uid: deployment.uid.clone().unwrap_or_default(),
        controller: Some(true),
        // Deleting needs no waiting: workers drain by themselves when their pods go.
        block_owner_deletion: None,
    }
}

/// The names that replicas of the present template answer to, as an annotation.
pub(super) fn served_names(desired: &Desired) -> String {
    let names: Vec<_> = desired.template.names.iter().map(|name| name.as_str()).collect();
    names.join(",")
}

fn metadata(desired: &Desired, name: String, owner: &OwnerReference) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(desired.name.namespace().to_owned()),
        labels: Some(labels::of_deployment(&desired.name)),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn selector(desired: &Desired) -> std::collections::BTreeMap<String, String> {
    [(labels::DEPLOYMENT.to_owned(), desired.name.name().to_owned())].into()
}

/// The headless Service under which members have names, ready or not.
pub(super) fn service(desired: &Desired, owner: &OwnerReference) -> Service {
    let port = |name: &str, port| ServicePort {
        name: Some(name.to_owned()),
        port,
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    let ports = vec![port("http", HTTP_PORT), port("grpc", CONTROL_PORT), port("ops", OPS_PORT)];
    Service {
        metadata: metadata(desired, labels::service_name(&desired.name), owner),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(desired)),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// How many members an eviction must leave ready: those of all but one of the `most` replicas that
/// there may be, and never of none. A replica goes with its first member: its others then count
/// as evicted, and protect the rest.
pub(super) fn budget(
    desired: &Desired,
    most: ReplicaCount,
    owner: &OwnerReference,
) -> PodDisruptionBudget {
    let members = desired.template.parallelism.members();
    let kept = if most.0 > 1 { most.0.saturating_mul(members) - 1 } else { members };
    PodDisruptionBudget {
        metadata: metadata(desired, desired.name.name().to_owned(), owner),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(i32::try_from(kept).unwrap_or(i32::MAX))),
            selector: Some(LabelSelector {
                match_labels: Some(selector(desired)),
                ..LabelSelector::default()
            }),
            // One that does not answer protects nobody.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// The claim of a namespace in which weights are kept. It is nobody's: that is its use.
pub(super) fn cache_claim(namespace: &str, cache: &WeightsCache) -> PersistentVolumeClaim {
    let size = Quantity(cache.size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(CACHE_CLAIM.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels::of_naru()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![cache.access_mode.clone()]),
            storage_class_name: Some(cache.storage_class.clone()),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size)].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// One replica, made from the present template.
pub(super) fn replica(
    desired: &Desired,
    id: ReplicaId,
    owner: &OwnerReference,
    image: &WorkerImage,
) -> StatefulSet {
    let revision = desired.template.revision();
    let own = labels::of_replica(&desired.name, id, revision);
    let mut metadata = metadata(desired, labels::replica_name(&desired.name, id), owner);
    metadata.labels = Some(own.clone());
    let names = served_names(desired);
    let mut annotations = power::charge(desired);
    annotations.insert(labels::SERVED_NAMES.to_owned(), names);
    let each = desired.template.parallelism.devices_per_member();
    if each > 1 {
        annotations.insert(labels::DEVICES_PER_MEMBER.to_owned(), each.to_string());
    }
    metadata.annotations = Some(annotations);
    let selector: std::collections::BTreeMap<_, _> = own
        .iter()
        .filter(|(key, _)| [labels::DEPLOYMENT, labels::REPLICA].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    StatefulSet {
        metadata,
        spec: StatefulSetSpec {
            replicas: i32::try_from(desired.template.parallelism.members()).ok(),
            service_name: Some(labels::service_name(&desired.name)),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(0),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            template: pod::template(desired, id, own, image),
            ..StatefulSetSpec::default()
        },
        ..StatefulSet::default()
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
