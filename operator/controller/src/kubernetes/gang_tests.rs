//! Facts about groups, and what is ordered about them.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::*;

const NOW: Moment = Moment(1_780_000_100_000);

fn ago(seconds: u64) -> String {
    observe::time(Moment(NOW.0 - seconds * 1000)).to_string()
}

/// A node with so many GPUs.
fn node(gpus: u32) -> Node {
    serde_json::from_value(json!({"status": {
        "allocatable": {"cpu": "8", "memory": "8Gi", "nvidia.com/gpu": gpus.to_string()},
        "conditions": [{"type": "Ready", "status": "True"}],
    }}))
    .unwrap()
}

fn set(name: &str, members: u32, annotations: Value) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "serving", "annotations": annotations},
        "spec": {"replicas": members, "selector": {}, "serviceName": "s", "template": {}},
    }))
    .unwrap()
}

/// A pod with one GPU, made so many seconds ago: at the gate (`g`), looking for a node since
/// `p` seconds, or on node `n`.
fn pod(name: String, made: u64, state: &str) -> Pod {
    let mut spec = json!({"containers": [{
        "name": "worker", "resources": {"requests": {"nvidia.com/gpu": "1"}},
    }]});
    let mut annotations = json!({});
    match (state, state.parse::<u64>()) {
        ("g", _) => spec["schedulingGates"] = json!([{"name": GATE}]),
        (_, Ok(seconds)) => annotations[PLACING_SINCE] = ago(seconds).into(),
        (node, _) => spec["nodeName"] = node.into(),
    }
    let metadata = json!({
        "name": name, "namespace": "serving", "annotations": annotations,
        "creationTimestamp": ago(made),
    });
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// A replica whose members, made so many seconds ago, are in these states; `-`: there is none.
struct Case {
    set: StatefulSet,
    pods: Vec<Pod>,
}

fn case(name: &str, made: u64, states: &[&str]) -> Case {
    let pods = states.iter().enumerate().filter(|(_, state)| **state != "-");
    let pods = pods.map(|(member, state)| pod(format!("{name}-{member}"), made, state));
    let members = u32::try_from(states.len()).unwrap();
    Case { pods: pods.collect(), set: set(name, members, json!({})) }
}

impl Case {
    fn group(&self) -> Option<Group<'_>> {
        Group::of(&self.set, |name| self.pods.iter().find(|pod| pod.name_any() == name))
    }
}

fn placement(gpus: &[u32]) -> Placement {
    let mut placement = Placement::default();
    for (number, gpus) in gpus.iter().enumerate() {
        placement.take(&format!("n{number}"), &node(*gpus));
    }
    placement
}

/// What is ordered, in short: `lift solar-0 4`.
#[track_caller]
fn check(fact: &str, gpus: &[u32], cases: &[Case], expected: &[&str]) {
    let groups: Vec<_> = cases.iter().filter_map(Case::group).collect();
    let pods = cases.iter().flat_map(|case| &case.pods);
    let Orders { orders, .. } = decide(&groups, &placement(gpus), pods, NOW);
    let words = orders.iter().map(|(set, order)| match order {
        Order::Lift(pods) => format!("lift {} {}", set.name_any(), pods.len()),
        Order::Withdraw(pods) => format!("withdraw {} {}", set.name_any(), pods.len()),
    });
    assert_eq!(words.collect::<Vec<_>>(), expected, "{fact}");
}

#[test]
fn groups_are_placed_whole() {
    let four = || case("solar-0", 9, &["g", "g", "g", "g"]);
    check("room on one node", &[4], &[four()], &["lift solar-0 4"]);
    check("room on two", &[2, 2], &[four()], &["lift solar-0 4"]);
    check("room for three", &[3], &[four()], &[]);
    check("one is not there yet", &[4], &[case("solar-0", 9, &["g", "g", "g", "-"])], &[]);
    check("a member alone needs none of this", &[4], &[case("solar-0", 9, &["g"])], &[]);
    let back = case("solar-0", 9, &["n0", "g", "n0", "n0"]);
    check("one that came anew", &[4], &[back], &["lift solar-0 1"]);
    let mut going = four();
    going.set.metadata.annotations = Some([(labels::DRAIN_SINCE.to_owned(), ago(1))].into());
    check("one that drains", &[4], &[going], &[]);
}

#[test]
fn one_group_at_a_time() {
    let two = |name, made| case(name, made, &["g", "g"]);
    let placing = || case("solar-0", 9, &["5", "n0"]);
    check("another is being placed", &[9], &[placing(), two("solar-1", 9)], &[]);
    let both = [two("solar-1", 9), two("solar-0", 10)];
    check("the older first", &[9], &both, &["lift solar-0 2"]);
    let large = case("luna-0", 20, &["g"; 8]);
    check("a small one passes by", &[3], &[large, two("solar-1", 9)], &["lift solar-1 2"]);
    let held = case("solar-0", 9, &["n0", "n0"]);
    check("what others hold", &[3], &[held, two("solar-1", 9)], &[]);
}

#[test]
fn groups_that_find_no_room() {
    let half = |since| case("solar-0", 99, &["n0", since]);
    check("not yet", &[1], &[half("59")], &[]);
    check("a minute long", &[1], &[half("60")], &["withdraw solar-0 2"]);
    let next = case("luna-0", 1, &["g"]);
    check("nobody else has to wait", &[1], &[half("60"), next], &["withdraw solar-0 2"]);
    let both = [half("70"), case("luna-0", 1, &["g", "g"])];
    check("another may try at once", &[3], &both, &["withdraw solar-0 2", "lift luna-0 2"]);
    let placing = [half("20")];
    let groups: Vec<_> = placing.iter().filter_map(Case::group).collect();
    let Orders { next_check, .. } = decide(&groups, &placement(&[1]), placing[0].pods.iter(), NOW);
    assert_eq!(next_check, Some(Moment(NOW.0 + 40_000)), "when its time is over");
}

#[test]
fn who_was_withdrawn_waits() {
    let withdrawn = |seconds| {
        let mut case = case("solar-0", 1, &["g", "g"]);
        case.set = set("solar-0", 2, json!({labels::WITHDRAWN: ago(seconds)}));
        case
    };
    check("a while", &[2], &[withdrawn(59)], &[]);
    check("and tries again", &[2], &[withdrawn(60)], &["lift solar-0 2"]);
    let other = case("luna-0", 1, &["g", "g"]);
    check("others do not", &[2], &[withdrawn(9), other], &["lift luna-0 2"]);
    let waiting = [withdrawn(20)];
    let groups: Vec<_> = waiting.iter().filter_map(Case::group).collect();
    let Orders { next_check, .. } = decide(&groups, &placement(&[2]), waiting[0].pods.iter(), NOW);
    assert_eq!(next_check, Some(Moment(NOW.0 + 40_000)), "when its time comes");
}

#[test]
fn what_a_group_lacks() {
    let lacks = |gpus: &[u32], states: &[&str]| {
        let case = case("solar-0", 9, states);
        case.group().unwrap().lacks_room(&placement(gpus), case.pods.iter())
    };
    assert_eq!(lacks(&[4], &["g"; 4]), None);
    assert_eq!(lacks(&[4], &["g", "g", "-"]), None, "nobody knows yet");
    let some = "4 members have to be placed together, and there is room for 3";
    assert_eq!(lacks(&[3], &["g"; 4]).as_deref(), Some(some));
    let none = "no node takes it: n0: no nvidia.com/gpu";
    assert_eq!(lacks(&[0], &["g"; 4]).as_deref(), Some(none));
}
