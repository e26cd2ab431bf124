//! From the objects of a cluster to what is shown of them. Pure.
//!
//! Model deployments and budgets are read field by field: whatever version wrote them, what is
//! there is shown.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::core::DynamicObject;
use naru_plan::{DeploymentName, Moment, PendingReason, Phase};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::cluster::node_name;
use super::super::labels::{self, HTTP_PORT, ZONE};
use super::super::observe::{self, Found, NodeState, Parts};
use super::{Budget, Deployment, Overview, Replica};

/// The objects that were listed; `None`: these could not be.
#[derive(Default)]
pub(super) struct Objects {
    pub(super) deployments: Vec<DynamicObject>,
    pub(super) budgets: Vec<DynamicObject>,
    pub(super) sets: Vec<StatefulSet>,
    pub(super) pods: Vec<Pod>,
    pub(super) nodes: Option<Vec<Node>>,
    pub(super) notes: Vec<String>,
}

/// What is shown of them.
pub(super) fn overview(objects: &Objects, now: Moment) -> Overview {
    let mut replicas: BTreeMap<DeploymentName, Vec<Replica>> = BTreeMap::new();
    let nodes = objects
        .nodes
        .as_ref()
        .map(|nodes| nodes.iter().map(|node| (node.name_any(), node)).collect::<BTreeMap<_, _>>());
    let pods: BTreeMap<_, _> =
        objects.pods.iter().map(|pod| ((pod.namespace(), pod.name_any()), pod)).collect();
    for set in &objects.sets {
        let pod = |name: &str| pods.get(&(set.namespace(), name.to_owned())).copied();
        let shown = replica(set, pod, nodes.as_ref(), now);
        if let (Some(name), Some(shown)) = (labels::deployment_of(set), shown) {
            replicas.entry(name).or_default().push(shown);
        }
    }
    let mut shown: Vec<_> = objects.deployments.iter().map(deployment).collect();
    for deployment in &mut shown {
        let name = DeploymentName::parse(&deployment.namespace, &deployment.name);
        let own = name.ok().and_then(|name| replicas.remove(&name));
        deployment.replicas = own.unwrap_or_default();
        // replica 10 is after replica 9
        deployment.replicas.sort_by_key(|replica| (replica.name.len(), replica.name.clone()));
    }
    shown.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut budgets: Vec<_> = objects.budgets.iter().map(budget).collect();
    budgets.sort_by(|a, b| a.name.cmp(&b.name));
    Overview { model_deployments: shown, power_budgets: budgets, notes: objects.notes.clone() }
}

fn deployment(object: &DynamicObject) -> Deployment {
    let (spec, status) = (&object.data["spec"], &object.data["status"]);
    let conditions: Vec<Condition> = list(&status["conditions"]);
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    let names: Vec<String> = list(&spec["model"]["names"]);
    Deployment {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        created: object.creation_timestamp(),
        serves: if names.is_empty() { vec![object.name_any()] } else { names },
        uri: text(&spec["model"]["uri"]).unwrap_or_default(),
        backend: text(&spec["backend"]).unwrap_or_else(|| "cpu".to_owned()),
        zones: list(&spec["placement"]["zones"]),
        wished: wished(spec, status),
        ready: status["readyReplicas"].as_u64().unwrap_or(0),
        updated: status["updatedReplicas"].as_u64(),
        is_ready: ready.is_some_and(|ready| ready.status == "True"),
        reason: ready.map_or_else(|| "NotReported".to_owned(), |ready| ready.reason.clone()),
        charged_watts: status["power"]["chargedWatts"].as_u64(),
        scaling: list(&status["scaling"]),
        conditions,
        replicas: Vec::new(),
    }
}

/// With scaling the last decision counts, before there was one the fewest.
fn wished(spec: &Value, status: &Value) -> u64 {
    let number = |value: &Value, default| value.as_u64().unwrap_or(default);
    let scaling = &spec["scaling"];
    if scaling.is_null() {
        return number(&spec["replicas"], 1);
    }
    let last = status["scaling"].as_array().and_then(|decisions| decisions.last());
    let last = last.and_then(|decision| decision["to"].as_u64());
    last.unwrap_or_else(|| number(&scaling["minReplicas"], 1))
}

fn replica<'a>(
    set: &'a StatefulSet,
    pod: impl Fn(&str) -> Option<&'a Pod>,
    nodes: Option<&BTreeMap<String, &'a Node>>,
    now: Moment,
) -> Option<Replica> {
    let node_of = |pod: &'a Pod| node_name(pod).and_then(|on| nodes?.get(on).copied());
    // Whoever may not look at nodes is not told that all are lost.
    let unseen = NodeState { is_ready: true, since: now, is_cordoned: false };
    let parts = Parts::new(set, false, now, |name| {
        let pod = pod(name);
        let node = pod.and_then(node_of).map(observe::node);
        let node = node.or_else(|| nodes.is_none().then_some(unseen));
        Found { pod, node, ..Found::default() }
    });
    let seen = observe::replica(&parts)?;
    let (phase, why) = if seen.drain_since.is_some() {
        ("Draining".to_owned(), String::new())
    } else {
        phase(&seen.phase)
    };
    let pods = || parts.members.iter().filter_map(|member| member.pod);
    let ip = parts.first().pod.and_then(observe::pod_ip);
    Some(Replica {
        name: set.name_any(),
        phase,
        why,
        node: distinct(pods().filter_map(node_name)),
        zone: distinct(pods().filter_map(|pod| Some(node_of(pod)?.labels().get(ZONE)?.as_str()))),
        address: ip.map(|ip| observe::socket(ip, HTTP_PORT)),
        created: set.creation_timestamp(),
        revision: seen.revision.to_string(),
        failures: seen.failures.0,
        queue: None,
    })
}

/// Each once, in their order; `None`: there is none.
fn distinct<'a>(words: impl Iterator<Item = &'a str>) -> Option<String> {
    let distinct: BTreeSet<_> = words.collect();
    let words: Vec<_> = distinct.into_iter().collect();
    (!words.is_empty()).then(|| words.join(","))
}

/// A phase in one word, as conditions have it, and why it is no other.
fn phase(phase: &Phase) -> (String, String) {
    let (word, why) = match phase {
        Phase::Ready => ("Ready", String::new()),
        Phase::Pending { why } => return (format!("{:?}", why.reason()), words(why)),
        Phase::Silent { .. } => ("Ending", String::new()),
        Phase::Fetching { .. } => ("Fetching", String::new()),
        Phase::Loading => ("Loading", String::new()),
        Phase::Apart { lost: Some(lost) } => ("RankFailed", lost.clone()),
        Phase::Apart { lost: None } => ("Starting", String::new()),
        Phase::Stopped { failure, .. } => ("Stopped", failure.to_string()),
    };
    (word.to_owned(), why)
}

fn words(why: &PendingReason) -> String {
    if *why == PendingReason::Placing { String::new() } else { why.to_string() }
}

fn budget(object: &DynamicObject) -> Budget {
    let (spec, status) = (&object.data["spec"], &object.data["status"]);
    let watts = status["watts"].as_u64().or(spec["watts"].as_u64());
    let conditions: Vec<Condition> = list(&status["conditions"]);
    let broken = conditions.into_iter().find(|c| c.type_ == "Holds" && c.status == "False");
    Budget {
        name: object.name_any(),
        parent: text(&spec["parent"]),
        watts: watts.unwrap_or(0),
        charged_watts: status["chargedWatts"].as_u64(),
        headroom_watts: status["headroomWatts"].as_u64(),
        broken: broken.map(|holds| holds.message),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The items that can be read.
fn list<T: DeserializeOwned>(value: &Value) -> Vec<T> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| T::deserialize(item).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn set(name: &str, annotations: Value) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "serving", "annotations": annotations,
            "labels": {
                "naru.dev/model-deployment": "solar",
                "naru.dev/replica": name.rsplit('-').next().unwrap(),
                "naru.dev/revision": "00000000000000ab",
            },
        }}))
        .unwrap()
    }

    fn pod(name: &str, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("{name}-0"), "namespace": "serving",
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "node1", "containers": []},
            "status": status,
        }))
        .unwrap()
    }

    fn running() -> Value {
        json!({
            "podIP": "10.1.2.3",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{
                "name": "worker", "image": "i", "imageID": "i", "ready": true, "restartCount": 2,
                "state": {"running": {}},
            }],
        })
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "node1", "labels": {ZONE: "riyadh"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    #[test]
    fn replicas() {
        let drains = json!({"naru.dev/drain-since": "2026-01-01T00:00:00Z"});
        let waits = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "message": "0/2 nodes",
        }]});
        let mut objects = Objects {
            deployments: vec![object(json!({
                "apiVersion": "naru.dev/v1alpha1", "kind": "ModelDeployment",
                "metadata": {"name": "solar", "namespace": "serving"},
            }))],
            sets: vec![
                set("solar-10", json!({})),
                set("solar-2", json!({})),
                set("solar-3", drains),
            ],
            pods: vec![
                pod("solar-2", running()),
                pod("solar-3", running()),
                pod("solar-10", waits),
            ],
            nodes: Some(vec![node()]),
            ..Objects::default()
        };
        let shown = |objects: &Objects| -> Vec<String> {
            let overview = overview(objects, Moment(1_800_000_000_000));
            let replicas = &overview.model_deployments[0].replicas;
            let line = |r: &Replica| {
                let zone = r.zone.as_deref().unwrap_or("-");
                format!("{} {} {zone} {} {}", r.name, r.phase, r.failures, r.why)
            };
            replicas.iter().map(line).collect()
        };
        let expected = [
            "solar-2 Ready riyadh 2 ",
            "solar-3 Draining riyadh 2 ",
            "solar-10 Unschedulable riyadh 0 0/2 nodes",
        ];
        assert_eq!(shown(&objects), expected, "by number");
        objects.nodes = None;
        assert_eq!(shown(&objects)[0], "solar-2 Ready - 2 ", "without the right to look at nodes");
        objects.nodes = Some(vec![]);
        assert!(shown(&objects)[0].starts_with("solar-2 Stopped - "), "its node is gone");
        objects.pods.clear();
        assert_eq!(shown(&objects)[0], "solar-2 Starting - 0 ", "no pod yet");
    }

    #[track_caller]
    fn check(fact: &str, spec: Value, status: Value, expected: &str) {
        let deployment = deployment(&object(json!({
            "apiVersion": "naru.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "solar", "namespace": "serving"},
            "spec": spec, "status": status,
        })));
        let Deployment { serves, wished, ready, reason, charged_watts, .. } = deployment;
        let said = format!("{} {ready}/{wished} {reason} {charged_watts:?}", serves.join(","));
        assert_eq!(said, expected, "{fact}");
    }

    #[test]
    fn deployments() {
        check("no status yet", json!({}), json!(null), "solar 0/1 NotReported None");
        let spec = json!({"replicas": 3, "model": {"names": ["a", "b"]}});
        let condition = |reason: &str| {
            json!([{
                "type": "Ready", "status": "False", "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }, {"type": "of another version"}])
        };
        let status = json!({
            "readyReplicas": 2, "conditions": condition("Loading"), "power": {"chargedWatts": 700},
        });
        check("names and numbers", spec, status, "a,b 2/3 Loading Some(700)");
        let spec = json!({"replicas": 9, "scaling": {"minReplicas": 0, "maxReplicas": 4}});
        let decision = json!([{
            "time": "2026-01-01T00:00:00Z", "from": 1, "to": 2, "reason": "r", "message": "m",
        }]);
        let status = json!({"scaling": decision});
        check("the last decision", spec.clone(), status, "solar 0/2 NotReported None");
        check("none yet", spec, json!({}), "solar 0/0 NotReported None");
    }

    #[test]
    fn budgets() {
        let of = |status: Value| {
            let shown = budget(&object(json!({
                "apiVersion": "naru.dev/v1alpha1", "kind": "PowerBudget",
                "metadata": {"name": "site"},
                "spec": {"watts": 9000, "parent": "country"}, "status": status,
            })));
            let Budget { watts, charged_watts, headroom_watts, broken, .. } = shown;
            (watts, charged_watts, headroom_watts, broken)
        };
        assert_eq!(of(json!(null)), (9000, None, None, None), "nobody reports");
        let status = json!({"watts": 5000, "chargedWatts": 4200, "headroomWatts": 800});
        assert_eq!(of(status), (5000, Some(4200), Some(800), None), "what holds now");
        let holds = json!({
            "type": "Holds", "status": "False", "reason": "r", "message": "too much",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let status = json!({"watts": 5000, "conditions": [holds]});
        assert_eq!(of(status).3.as_deref(), Some("too much"));
    }
}
