//! Who chooses the number of replicas, and within which bounds.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// naru chooses the number of replicas by load.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = (
    "self.minReplicas <= self.maxReplicas",
    "minReplicas must not be more than maxReplicas"
))]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Never fewer replicas than these. 0: none while nobody asks; a first request then waits
    /// until one is there. Default: 1.
    #[serde(default = "default_min_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: u32,
    /// Never more replicas than these.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: u32,
    /// The load of a replica beyond which there is another. There is another as well when
    /// requests wait though every sequence is taken, or when KV caches are nearly full.
    #[serde(default)]
    pub targets: ScalingTargets,
    /// With minReplicas 0: seconds without any request until the last replica goes.
    /// Default: 600.
    #[serde(default = "default_idle_seconds")]
    #[schemars(range(min = 1, max = 604_800))]
    pub idle_seconds_before_zero: u32,
}

fn default_min_replicas() -> u32 {
    1
}

fn default_idle_seconds() -> u32 {
    600
}

/// The load of a replica beyond which there is another.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingTargets {
    /// Tokens of prompts that wait in its queue. Default: 8192.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub queued_tokens_per_replica: u32,
}

impl Default for ScalingTargets {
    fn default() -> Self {
        Self { queued_tokens_per_replica: 8192 }
    }
}
