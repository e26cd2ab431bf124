//! `spec.rollout`: how replicas give way.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How replicas give way: to a new template, and when fewer are wished.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "self.strategy != 'InPlace' || !has(self.maxSurge)",
        "maxSurge is for strategy Surge: InPlace makes none beyond the wished number"
    ),
    validation = (
        "self.strategy != 'InPlace' || !has(self.maxUnavailable) || self.maxUnavailable >= 1",
        "strategy InPlace needs maxUnavailable of at least 1: a replica goes before its successor \
         comes"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// `Surge`: new replicas are made beside old ones, which needs room for them. `InPlace`: old
    /// ones go first, which needs none; requests wait in the gateway if nobody is left to answer.
    /// Default: Surge.
    #[serde(default)]
    pub strategy: StrategyName,
    /// How many replicas may exist beyond the wished number while templates are exchanged; only
    /// with Surge. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_surge: Option<u32>,
    /// How many of the wished replicas need not answer while templates are exchanged. With Surge
    /// at least one always answers. Default: 0 with Surge, 1 with InPlace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_unavailable: Option<u32>,
    /// Seconds that the first replica of a new template has to answer, alone among older ones,
    /// before others are exchanged. Default: 0, none goes ahead.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86_400))]
    pub canary_seconds: u32,
    /// Seconds after which a replica of a new template that is neither fetching weights, loading
    /// them nor answering stops the exchange; so does one that failed three times in a row. Older
    /// replicas serve on. Default: 600.
    #[serde(default = "progress_deadline_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub progress_deadline_seconds: u32,
    /// Seconds that running streams may take to finish when a replica goes. Default: 60.
    #[serde(default = "drain_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub drain_seconds: u32,
}

const fn progress_deadline_seconds() -> u32 {
    600
}

const fn drain_seconds() -> u32 {
    60
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            strategy: StrategyName::Surge,
            max_surge: None,
            max_unavailable: None,
            canary_seconds: 0,
            progress_deadline_seconds: progress_deadline_seconds(),
            drain_seconds: drain_seconds(),
        }
    }
}

/// What goes first: the old replica or the new one.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StrategyName {
    /// The new one comes first.
    #[default]
    Surge,
    /// The old one goes first.
    InPlace,
}
