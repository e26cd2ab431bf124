//! What a cluster is told about the pods of members beyond what naru decides.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use std::collections::BTreeMap;

use kube::KubeSchema;
use naru_plan::{Overlay, Template};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labels;

/// Laid over the pod of each member. Ignored where there are no pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels beside those that naru sets.
    #[x_kube(validation = (
        "self.all(key, !key.startsWith('naru.dev/') && !key.startsWith('app.kubernetes.io/'))",
        "labels that begin with naru.dev/ or app.kubernetes.io/ are set by naru"
    ))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels::selector_schema")]
    pub labels: BTreeMap<String, String>,
    /// Annotations beside those that naru sets.
    #[x_kube(validation = (
        "self.all(key, !key.startsWith('naru.dev/'))",
        "annotations that begin with naru.dev/ are set by naru"
    ))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels::annotations_schema")]
    pub annotations: BTreeMap<String, String>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels::selector_schema")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that do not keep members away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// Volumes, each mounted into the worker; `file:///` weights are read from there.
    #[x_kube(validation = (
        "self.all(volume, self.exists_one(other, other.name == volume.name))",
        "the same name is listed twice"
    ))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub volumes: Vec<Volume>,
    /// Environment of the worker.
    #[x_kube(validation = (
        "self.all(variable, self.exists_one(other, other.name == variable.name))",
        "the same name is listed twice"
    ))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub env: Vec<Variable>,
    /// Secrets of the same namespace that open the registry of the worker's image. Default: those
    /// of the service account `default`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<PullSecret>,
    /// The PriorityClass of the pods. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// The scheduler that places the pods. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub scheduler_name: Option<String>,
}

/// A taint that does not keep members away; fields as in a pod.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "self.operator != 'Exists' || !has(self.value)",
        "value must not be given with operator Exists"
    ),
    validation = (
        "has(self.key) || self.operator == 'Exists'",
        "operator must be Exists where no key is given"
    ),
    validation = (
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        "tolerationSeconds needs effect NoExecute"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The key of the taint. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 316))]
    pub key: Option<String>,
    /// `Equal`: the value counts; `Exists`: it does not. Default: Equal.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// The value of the taint. Default: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// The effect of the taint. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// Seconds until a NoExecute taint counts after all. Default: it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub toleration_seconds: Option<u32>,
}

/// How a toleration is compared with a taint.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // Kubernetes' own words
pub enum TolerationOperator {
    #[default]
    Equal,
    Exists,
}

/// What a taint does.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // Kubernetes' own words
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

/// A volume and where the worker sees it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "[has(self.persistentVolumeClaim), has(self.configMap), has(self.secret)]\
         .filter(given, given).size() == 1",
        "exactly one of persistentVolumeClaim, configMap and secret must be given"
    ),
    validation = ("!self.name.startsWith('naru-')", "names that begin with naru- are naru's own"),
    validation = (
        "!['/etc/naru', '/var/cache/naru', '/var/lib/naru'].exists(own, \
         self.mountPath == own || self.mountPath.startsWith(own + '/'))",
        "mountPath must not be in /etc/naru, /var/cache/naru or /var/lib/naru: those are naru's own"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// A DNS label.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Where the worker sees it: an absolute path.
    #[schemars(length(max = 512), regex(pattern = r"^/[^:]+$"))]
    pub mount_path: String,
    /// Whether the worker may not write there. Default: true.
    #[serde(default = "default_read_only")]
    pub read_only: bool,
    /// A claim in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSource>,
    /// A ConfigMap in the same namespace, each key a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A Secret in the same namespace, each key a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretSource>,
}

fn default_read_only() -> bool {
    true
}

/// A PersistentVolumeClaim.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}

/// A ConfigMap.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A Secret.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// A Secret with logins to registries.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One variable of the environment.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "has(self.value) != has(self.valueFrom)",
        "exactly one of value and valueFrom must be given"
    ),
    validation = (
        "self.name == 'NARU_LOG' || !self.name.startsWith('NARU_')",
        "variables that begin with NARU_ are set by naru, but for NARU_LOG"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Variable {
    /// Its name.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// Where its value is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueSource>,
}

/// Where a value is kept.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValueSource {
    /// A key of a Secret in the same namespace.
    pub secret_key_ref: SecretKey,
}

/// One key of a Secret.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl PodTemplate {
    /// As the planner carries it: equal templates are equal text, the empty one is empty.
    pub(crate) fn to_overlay(&self) -> Overlay {
        if *self == Self::default() {
            return Overlay::default();
        }
        Overlay(serde_json::to_string(self).expect("maps, lists and text are JSON"))
    }

    /// What a parsed template carries for the pods of its members.
    pub fn of(template: &Template) -> Self {
        if template.overlay.0.is_empty() {
            return Self::default();
        }
        serde_json::from_str(&template.overlay.0).expect("only parse writes overlays")
    }
}
