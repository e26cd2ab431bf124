//! Whose requests are answered, where, and with how many watts.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labels;

/// Whose requests are answered: those of named tenants, or of tenants with certain labels.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = (
    "has(self.tenants) != has(self.selector)",
    "exactly one of tenants and selector must be given"
))]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Names of tenants; others are answered 403.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    pub tenants: Option<Vec<String>>,
    /// Labels of tenants; those without are answered 403.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<TenantSelector>,
}

/// Which tenants, by their labels.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantSelector {
    /// Labels that a tenant must have, all of them; none: every tenant.
    #[schemars(schema_with = "labels::selector_schema")]
    pub match_labels: BTreeMap<String, String>,
}

/// Where members may run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Values of the node label topology.kubernetes.io/zone; members run nowhere else.
    /// Default: anywhere.
    #[x_kube(validation = (
        "self.all(zone, self.exists_one(other, other == zone))",
        "the same zone is listed twice"
    ))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 63),
            regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
        )
    )]
    pub zones: Option<Vec<String>>,
}

/// Which power budget the members draw from, and how much.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Power {
    /// The PowerBudget that is charged, and with it those that it is a part of.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub budget: String,
    /// Watts that each device may draw at most: each GPU; on the backends cpu and sim, each
    /// member's set of cores. Every replica is charged this for each of its devices, from when it
    /// is made until it is gone, whatever it draws.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_watts_per_device: u32,
    /// Who has more is given room in a budget first, and loses it last; of equals the older one.
    /// Default: 0.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
}
