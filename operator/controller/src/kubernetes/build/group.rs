//! What the pods of a replica of several ranks are given so that these find each other, and are
//! placed together.

use k8s_openapi::api::core::v1::{
    EnvVar, EnvVarSource, ObjectFieldSelector, PodAffinity, PodAffinityTerm, PodAntiAffinity,
    PodSchedulingGate, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use naru_plan::{Desired, ReplicaId};

use crate::arguments;
use crate::kubernetes::gang::GATE;
use crate::kubernetes::labels::{self, DEPLOYMENT, LINKS_PORT, MEMBER, REPLICA, ZONE};

/// The variable that tells a member its number.
const MEMBER_VARIABLE: &str = "NARU_MEMBER";
const HOST: &str = "kubernetes.io/hostname";
/// Members of one replica on one node, else in one zone, is worth more than replicas apart.
const SAME_NODE: i32 = 100;
const SAME_ZONE: i32 = 50;
const OTHER_REPLICA: i32 = 10;

/// Whether a replica has several members.
pub(super) fn is_group(desired: &Desired) -> bool {
    desired.template.parallelism.members() > 1
}

/// What keeps members from being placed one by one.
pub(super) fn gates(desired: &Desired) -> Option<Vec<PodSchedulingGate>> {
    is_group(desired).then(|| vec![PodSchedulingGate { name: GATE.to_owned() }])
}

/// Which member it is: the number that the StatefulSet gives its pod.
pub(super) fn env(desired: &Desired) -> Option<EnvVar> {
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{MEMBER}']"),
        ..ObjectFieldSelector::default()
    };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    is_group(desired).then(|| EnvVar {
        name: MEMBER_VARIABLE.to_owned(),
        value_from: Some(source),
        ..EnvVar::default()
    })
}

/// How members find each other: by the names that the headless Service gives them, ready or not.
pub(super) fn arguments(desired: &Desired, id: ReplicaId) -> Vec<String> {
    if !is_group(desired) {
        return Vec::new();
    }
    let (name, parallelism) = (&desired.name, desired.template.parallelism);
    let (set, service) = (labels::replica_name(name, id), labels::service_name(name));
    let namespace = name.namespace();
    let address = |member| format!("{set}-{member}.{service}.{namespace}.svc:{LINKS_PORT}");
    let members: Vec<_> = (0..parallelism.members()).map(address).collect();
    let listen = format!("0.0.0.0:{LINKS_PORT}");
    let member = format!("$({MEMBER_VARIABLE})");
    arguments::of_member(format!("{namespace}/{set}"), member, &members, listen)
}

/// Members near each other, and replicas apart, where they can be.
pub(super) fn affinity(desired: &Desired, id: ReplicaId) -> Option<(PodAffinity, PodAntiAffinity)> {
    let replica = |operator: &str| LabelSelectorRequirement {
        key: REPLICA.to_owned(),
        operator: operator.to_owned(),
        values: Some(vec![id.to_string()]),
    };
    let term = |operator: &str, weight, key: &str| WeightedPodAffinityTerm {
        weight,
        pod_affinity_term: PodAffinityTerm {
            topology_key: key.to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: Some(
                    [(DEPLOYMENT.to_owned(), desired.name.name().to_owned())].into(),
                ),
                match_expressions: Some(vec![replica(operator)]),
            }),
            ..PodAffinityTerm::default()
        },
    };
    let near = vec![term("In", SAME_NODE, HOST), term("In", SAME_ZONE, ZONE)];
    let apart = vec![term("NotIn", OTHER_REPLICA, HOST)];
    is_group(desired).then(|| {
        let near = PodAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(near),
            ..PodAffinity::default()
        };
        let apart = PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(apart),
            ..PodAntiAffinity::default()
        };
        (near, apart)
    })
}
