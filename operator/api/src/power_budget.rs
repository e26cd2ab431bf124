//! `PowerBudget`: the watts that a site, hall, rack or node pool may draw.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use naru_plan::power::{self, MinuteOfDay, TimeZone};
use naru_plan::{BudgetName, Watts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Finding, Findings};
use crate::status::Enforcement;

/// The watts that a domain may draw.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "naru.dev",
    version = "v1alpha1",
    kind = "PowerBudget",
    doc = "The watts that a site, hall, rack or node pool may draw; budgets form a tree.",
    shortname = "pb",
    category = "naru",
    status = "PowerBudgetStatus",
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
    printcolumn(
        name = "Watts",
        type_ = "integer",
        description = "Watts that the domain may draw now",
        json_path = ".status.watts"
    ),
    printcolumn(
        name = "Charged",
        type_ = "integer",
        description = "Watts that its replicas may draw together",
        json_path = ".status.chargedWatts"
    ),
    printcolumn(
        name = "Headroom",
        type_ = "integer",
        description = "Watts that are left for more replicas",
        json_path = ".status.headroomWatts"
    ),
    printcolumn(
        name = "Holds",
        type_ = "string",
        description = "Whether charges and overhead are within its watts",
        json_path = ".status.conditions[?(@.type=='Holds')].status"
    ),
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
#[serde(rename_all = "camelCase")]
pub struct PowerBudgetSpec {
    /// Watts that the whole domain may draw at any time, as an average over one second.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub watts: u32,
    /// Watts that the whole domain draws beside devices (hosts, switches, fans), budgets below it
    /// included; if they say more together, that counts. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub overhead_watts: u32,
    /// The budget that this one is a part of. Default: none, it is a root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub parent: Option<String>,
    /// Hours at which the domain may draw less; of several that hold, the lowest counts. Replicas
    /// that do not fit then drain before such an hour begins. Default: none.
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
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// The days on which it begins. Default: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Day>,
    /// When it begins, hours and minutes (12:00). Where clocks are set forward or back within
    /// these minutes, the longer reading counts.
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

/// How a domain stands.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PowerBudgetStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Watts that the whole domain may draw now.
    pub watts: u64,
    /// Watts of these that it draws beside devices.
    pub overhead_watts: u64,
    /// Watts that its replicas are charged: what they may draw at most, all together.
    pub charged_watts: u64,
    /// Watts that are left for more replicas.
    pub headroom_watts: u64,
    /// What keeps devices within their watts. `advisory`: nothing does, they are taken at their
    /// declared maximum.
    pub enforcement: Enforcement,
    /// Holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Parses a power budget that passed schema and rules.
///
/// Errors: every field that still has no meaning, as path and words.
pub fn parse_power_budget(
    budget: &PowerBudget,
) -> Result<power::PowerBudget, Vec<(String, String)>> {
    parse_power_budget_fields(budget).map_err(Finding::into_pairs)
}

pub(crate) fn parse_power_budget_fields(
    budget: &PowerBudget,
) -> Result<power::PowerBudget, Vec<Finding>> {
    let mut findings = Findings::default();
    let PowerBudgetSpec { watts, overhead_watts, ref parent, ref schedule } = budget.spec;
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    let name = findings.keep(BudgetName::parse(name), "metadata.name");
    let parent = parent.as_deref().map(BudgetName::parse).transpose();
    let parent = findings.keep(parent, "spec.parent").flatten();
    let mut windows = Vec::new();
    for (index, window) in schedule.iter().enumerate() {
        windows.extend(parse_window(window, &format!("spec.schedule[{index}]"), &mut findings));
    }
    findings.or(name.map(|name| power::PowerBudget {
        name,
        watts: Watts(watts.into()),
        overhead: Watts(overhead_watts.into()),
        parent,
        schedule: windows,
    }))
}

fn parse_window(window: &Window, path: &str, findings: &mut Findings) -> Option<power::Window> {
    let from = findings.keep(MinuteOfDay::parse(&window.from), &format!("{path}.from"));
    let to = findings.keep(MinuteOfDay::parse(&window.to), &format!("{path}.to"));
    let zone = findings.keep(TimeZone::parse(&window.time_zone), &format!("{path}.timeZone"));
    let day = |day: &Day| match day {
        Day::Mon => power::Day::Mon,
        Day::Tue => power::Day::Tue,
        Day::Wed => power::Day::Wed,
        Day::Thu => power::Day::Thu,
        Day::Fri => power::Day::Fri,
        Day::Sat => power::Day::Sat,
        Day::Sun => power::Day::Sun,
    };
    Some(power::Window {
        days: window.days.iter().map(day).collect(),
        from: from?,
        to: to?,
        time_zone: zone?,
        watts: Watts(window.watts.into()),
    })
}
