//! `PowerBudget`: the watts that a site, hall, rack or node pool may draw.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labels;

/// The watts that a domain may draw.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "naru.dev",
    version = "v1alpha1",
    kind = "PowerBudget",
    doc = "The watts that a site, hall, rack or node pool may draw; budgets form a tree.",
    shortname = "pb",
    category = "naru",
    derive = "PartialEq",
    validation = (
        "self.metadata.name.size() <= 63 && \
         self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS label of at most 63 characters: metrics and logs carry it"
    ),
    validation = (
        "!has(self.spec.parent) || self.spec.parent != self.metadata.name",
        "spec.parent must be another budget"
    ),
    printcolumn(name = "Watts", type_ = "integer", json_path = ".spec.watts"),
    printcolumn(name = "Parent", type_ = "string", json_path = ".spec.parent"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = (
        "self.overheadWatts < self.watts",
        "overheadWatts must be less than watts: nothing would be left for devices"
    ),
    validation = (
        "!has(self.schedule) || self.schedule.all(window, window.watts <= self.watts)",
        "a window of schedule must not have more than spec.watts: it lowers the budget"
    ),
    validation = (
        "!has(self.schedule) || self.schedule.all(window, window.watts > self.overheadWatts)",
        "a window of schedule must have more than overheadWatts: nothing would be left for devices"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PowerBudgetSpec {
    /// Watts that the whole domain may draw at any time, as an average over one second.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub watts: u32,
    /// Watts that the domain draws beside devices (hosts, switches, fans). Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub overhead_watts: u32,
    /// The budget that this one is a part of. Default: none, it is a root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub parent: Option<String>,
    /// The nodes in the domain, by their labels. Default: those of the budgets below it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels::selector_schema")]
    pub node_selector: BTreeMap<String, String>,
    /// Hours at which the domain may draw less; of several that hold, the lowest counts.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub schedule: Vec<Window>,
}

/// Hours at which a domain may draw less.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = ("self.from != self.to", "from and to must differ; a whole day is 00:00 to 24:00"),
    validation = (
        "!has(self.days) || self.days.all(day, self.days.exists_one(other, other == day))",
        "the same day is listed twice"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// The days on which it begins. Default: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Day>,
    /// When it begins, hours and minutes (12:00).
    #[schemars(length(max = 5), regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub from: String,
    /// When it ends, hours and minutes (17:00, 24:00); earlier than `from`: on the next day.
    #[schemars(length(max = 5), regex(pattern = r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"))]
    pub to: String,
    /// Whose clock that is, by its name in the IANA database (Asia/Riyadh). Default: UTC.
    #[serde(default = "default_time_zone")]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$")
    )]
    pub time_zone: String,
    /// Watts that the whole domain may draw meanwhile.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub watts: u32,
}

fn default_time_zone() -> String {
    "UTC".into()
}

/// A day of the week.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // what Mon means is known, and docs on variants would swell the definition
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}
