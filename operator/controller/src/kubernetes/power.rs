//! The power budgets of the cluster, as seen last, and what is said of them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use naru_api::{Enforcement, PowerBudgetStatus};
use naru_plan::power::{BudgetReport, BudgetState, Leftover, PowerBudget};
use naru_plan::{BudgetName, DeploymentName, Desired, Moment, Reason, Truth, Watts};

use super::roster::{self, Roster};
use super::status::Said;
use super::{labels, observe};

/// One budget as its object says.
struct Known {
    parsed: Result<PowerBudget, String>,
    generation: Option<i64>,
    status: PowerBudgetStatus,
}

/// The budgets of the cluster.
#[derive(Default)]
pub(super) struct PowerBudgets(Roster<Known>);

impl PowerBudgets {
    /// Takes what the watch told.
    pub(super) fn take(&mut self, event: Event<DynamicObject>) {
        // Another status is no other wish.
        self.0.take(event, read, |before, now| before.generation == now.generation);
    }

    /// Whether every budget has been seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.0.is_complete()
    }

    /// Whether something else is wished than when this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        self.0.take_news()
    }

    /// Every budget that says something with a meaning, by name.
    pub(super) fn all(&self) -> Vec<PowerBudget> {
        self.0.all().filter_map(|(_, known)| known.parsed.clone().ok()).collect()
    }

    /// By name, the status of every budget whose object says something else so far.
    pub(super) fn news(
        &self,
        reports: &[BudgetReport],
        now: Moment,
    ) -> Vec<(String, PowerBudgetStatus)> {
        let mut news = Vec::new();
        for (name, known) in self.0.all() {
            let report = reports.iter().find(|report| report.name.as_str() == name);
            let status = match (&known.parsed, report) {
                (Err(words), _) => refused(words, known, now),
                (Ok(_), Some(report)) => status(report, known, now),
                (Ok(_), None) => continue, // seen since the pass began
            };
            if status != known.status {
                news.push((name.clone(), status));
            }
        }
        news
    }
}

fn read(object: &DynamicObject) -> Option<Known> {
    let parsed = roster::read(object, naru_api::parse_power_budget);
    if let Err(words) = &parsed {
        tracing::error!(power_budget = object.name_any(), "it is not obeyed: {words}");
    }
    let status = object.data.get("status").cloned();
    let status = status.and_then(|status| serde_json::from_value(status).ok());
    let (generation, status) = (object.metadata.generation, status.unwrap_or_default());
    Some(Known { parsed, generation, status })
}

fn status(report: &BudgetReport, known: &Known, now: Moment) -> PowerBudgetStatus {
    let BudgetReport { watts, overhead, charged, headroom, ref state, .. } = *report;
    let (watts, overhead) = (watts.0, overhead.0);
    let draws = format!("{} W charged and {overhead} W of overhead, of {watts} W", charged.0);
    let (truth, reason, message) = match state {
        BudgetState::Holds => (Truth::True, Reason::WithinBudget, draws),
        BudgetState::Exceeded => {
            let words = format!("{draws}: what no longer fits drains");
            (Truth::False, Reason::PowerBudgetFull, words)
        }
        BudgetState::Infeasible => {
            let words = format!("overhead alone takes {overhead} W of {watts} W: nothing runs");
            (Truth::False, Reason::PowerInfeasible, words)
        }
        BudgetState::Broken(fault) => {
            (Truth::False, Reason::PowerBudgetInvalid, format!("{fault}: nothing more is started"))
        }
    };
    PowerBudgetStatus {
        observed_generation: known.generation,
        watts,
        overhead_watts: overhead,
        charged_watts: charged.0,
        headroom_watts: headroom.0,
        enforcement: Enforcement::Advisory,
        conditions: vec![holds(truth, reason, message, known, now)],
    }
}

/// The status of a budget that means nothing.
fn refused(words: &str, known: &Known, now: Moment) -> PowerBudgetStatus {
    let words = format!("{words}; nothing more is started under it");
    PowerBudgetStatus {
        observed_generation: known.generation,
        conditions: vec![holds(Truth::False, Reason::PowerBudgetInvalid, words, known, now)],
        ..PowerBudgetStatus::default()
    }
}

fn holds(truth: Truth, reason: Reason, message: String, known: &Known, now: Moment) -> Condition {
    let said = Said { kind: "Holds", truth, reason, message };
    said.condition(&known.status.conditions, known.generation, now)
}

/// What a replica is charged, and to whom, as annotations: it is known by them once nobody
/// wishes its deployment any more.
pub(super) fn charge(desired: &Desired) -> BTreeMap<String, String> {
    let Some(power) = &desired.power else { return BTreeMap::new() };
    [
        (labels::CHARGED_BUDGET.to_owned(), power.budget.as_str().to_owned()),
        (labels::CHARGED_WATTS.to_owned(), power.watts_per_replica.0.to_string()),
    ]
    .into()
}

/// What replicas draw whose deployment is none of the wished ones.
pub(super) fn leftovers<'a>(
    sets: impl Iterator<Item = &'a StatefulSet>,
    pods: impl Iterator<Item = &'a Pod>,
    wished: &BTreeSet<&DeploymentName>,
) -> Vec<Leftover> {
    // By namespace and name of the replica: a pod and its StatefulSet are one charge.
    let mut found = BTreeMap::new();
    for set in sets.filter(|set| !is_wished(*set, wished)) {
        let key = (set.namespace(), set.name_any());
        found.extend(charged(set, None).map(|leftover| (key, leftover)));
    }
    for pod in pods.filter(|pod| !is_wished(*pod, wished)) {
        let name = pod.name_any();
        let key = (pod.namespace(), name.strip_suffix("-0").unwrap_or(&name).to_owned());
        // The time at which it ends at the latest.
        let gone_by = pod.metadata.deletion_timestamp.as_ref().map(observe::moment);
        found.extend(charged(pod, gone_by).map(|leftover| (key, leftover)));
    }
    found.into_values().collect()
}

fn is_wished<K: ResourceExt>(object: &K, wished: &BTreeSet<&DeploymentName>) -> bool {
    labels::deployment_of(object).is_some_and(|name| wished.contains(&name))
}

fn charged<K: ResourceExt>(object: &K, gone_by: Option<Moment>) -> Option<Leftover> {
    let annotations = object.annotations();
    let budget = BudgetName::parse(annotations.get(labels::CHARGED_BUDGET)?).ok()?;
    let watts = Watts(annotations.get(labels::CHARGED_WATTS)?.parse().ok()?);
    Some(Leftover { budget, watts, gone_by })
}

#[cfg(test)]
mod tests {
    use naru_plan::power::BudgetFault;
    use serde_json::json;

    use super::*;

    fn object(name: &str, generation: i64, zone: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "naru.dev/v1alpha1", "kind": "PowerBudget",
            "metadata": {"name": name, "generation": generation},
            "spec": {
                "watts": 500,
                "schedule": [{"from": "12:00", "to": "13:00", "timeZone": zone, "watts": 100}],
            },
        }))
        .unwrap()
    }

    fn report(state: BudgetState) -> BudgetReport {
        BudgetReport {
            name: BudgetName::parse("hall").unwrap(),
            watts: Watts(500),
            overhead: Watts(100),
            charged: Watts(300),
            headroom: Watts(100),
            state,
        }
    }

    #[test]
    fn events() {
        let budgets = &mut PowerBudgets::default();
        budgets.take(Event::Init);
        budgets.take(Event::InitApply(object("hall", 1, "Asia/Riyadh")));
        budgets.take(Event::InitDone);
        assert!(budgets.is_complete() && budgets.take_news() && !budgets.take_news());
        budgets.take(Event::Apply(object("hall", 1, "Asia/Riyadh")));
        assert!(!budgets.take_news(), "another status is no other wish");
        budgets.take(Event::Apply(object("hall", 2, "Asia/Nowhere")));
        assert!(budgets.take_news() && budgets.all().is_empty());
        let [(_, status)] = &budgets.news(&[], Moment(0))[..] else { panic!("one status") };
        let said = &status.conditions[0].message;
        assert!(said.starts_with("spec.schedule[0].timeZone: there is no time zone"), "{said}");
        budgets.take(Event::Delete(object("hall", 2, "UTC")));
        assert!(budgets.take_news());
    }

    #[test]
    fn how_a_budget_stands() {
        let mut budgets = PowerBudgets::default();
        budgets.take(Event::Apply(object("hall", 3, "UTC")));
        let mut said = |state, now| {
            let news = budgets.news(&[report(state)], Moment(now));
            let (name, status) = news.into_iter().next()?;
            let mut told = object(&name, 3, "UTC");
            told.data["status"] = serde_json::to_value(&status).unwrap();
            budgets.take(Event::Apply(told));
            let Condition { status: truth, reason, message, last_transition_time, .. } =
                &status.conditions[0];
            let since = observe::moment(last_transition_time).0;
            Some(format!("{} {truth} {reason} {since} {message}", status.headroom_watts))
        };
        let holds = "100 True WithinBudget 5000 300 W charged and 100 W of overhead, of 500 W";
        assert_eq!(said(BudgetState::Holds, 5_500).unwrap(), holds);
        assert_eq!(said(BudgetState::Holds, 9_000), None, "it is told once");
        let full = said(BudgetState::Exceeded, 9_000).unwrap();
        assert!(full.contains("False PowerBudgetFull 9000"), "{full}");
        let missing = BudgetFault::Missing(BudgetName::parse("site").unwrap());
        let broken = said(BudgetState::Broken(missing), 11_000).unwrap();
        assert!(broken.contains("PowerBudgetInvalid 9000 there is no PowerBudget"), "{broken}");
        let none = said(BudgetState::Infeasible, 12_000).unwrap();
        assert!(none.contains("PowerInfeasible 9000 overhead alone takes 100 W"), "{none}");
    }

    #[test]
    fn what_is_left() {
        let metadata = |name: &str, owner: &str, deleted: bool| {
            json!({
                "name": name, "namespace": "ns",
                "labels": {labels::DEPLOYMENT: owner},
                "annotations": {labels::CHARGED_BUDGET: "hall", labels::CHARGED_WATTS: "300"},
                "deletionTimestamp": deleted.then_some("1970-01-01T00:00:05Z"),
            })
        };
        let set = |name, owner| -> StatefulSet {
            serde_json::from_value(json!({"metadata": metadata(name, owner, false)})).unwrap()
        };
        let pod = |name, owner| -> Pod {
            serde_json::from_value(json!({"metadata": metadata(name, owner, true)})).unwrap()
        };
        let wished = DeploymentName::parse("ns", "a").unwrap();
        let (sets, pods) = ([set("a-0", "a"), set("b-0", "b")], [pod("b-0-0", "b")]);
        let found = leftovers(sets.iter(), pods.iter(), &BTreeSet::from([&wished]));
        let (budget, gone_by) = (BudgetName::parse("hall").unwrap(), Some(Moment(5_000)));
        assert_eq!(found, [Leftover { budget, watts: Watts(300), gone_by }], "one, of b");
    }
}
