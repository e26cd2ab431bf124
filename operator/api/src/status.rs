//! What a cluster is told about a model deployment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scaling decisions that a status keeps; the oldest goes first.
pub const DECISIONS_KEPT: usize = 5;

/// What is true of a model deployment.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelDeploymentStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that exist.
    pub replicas: u32,
    /// Replicas that answer requests.
    pub ready_replicas: u32,
    /// Replicas of the present template.
    pub updated_replicas: u32,
    /// Labels of member 0 of each replica, as `key=value,…`; an HPA counts what they find.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The last five times naru chose another number of replicas, the newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scaling: Vec<ScalingDecision>,
    /// What its replicas are charged, when it draws from a power budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerStatus>,
    /// Ready, WorkersReady, WeightsAvailable, RolledOut, with `scaling` ScalingActive, and with
    /// `power` PowerFits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One time naru chose another number of replicas.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingDecision {
    /// When.
    pub time: Time,
    /// Replicas wished before.
    pub from: u32,
    /// Replicas wished since.
    pub to: u32,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// What the replicas of a model deployment are charged.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PowerStatus {
    /// Watts that the replicas there are, draining ones too, may draw at most.
    pub charged_watts: u64,
    /// What keeps devices within their watts.
    pub enforcement: Enforcement,
}

/// What keeps devices within their watts.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// Nothing does: they are taken at their declared maximum.
    #[default]
    Advisory,
}
