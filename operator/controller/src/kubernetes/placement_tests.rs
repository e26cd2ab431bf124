//! Facts about nodes and pods, and the line that they come to.

use serde_json::{Value, json};

use super::*;

/// A node with 4 cores and 8 GiB, Ready, in `zone`, and with what `more` says of its spec.
fn node(zone: &str, more: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"labels": {ZONE: zone, "disk": "fast"}},
        "spec": more,
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }))
    .unwrap()
}

/// A pod that asks for one core and `memory`, with what `more` says of its spec.
fn pod(memory: &str, more: Value) -> Pod {
    let mut spec = json!({
        "containers": [{
            "name": "worker",
            "resources": {"requests": {"cpu": "1", "memory": memory}},
        }],
    });
    let fields = more.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(fields);
    serde_json::from_value(json!({"metadata": {"name": "m-0-0"}, "spec": spec})).unwrap()
}

fn in_zone(zone: &str) -> Value {
    let wish = json!({"key": ZONE, "operator": "In", "values": [zone]});
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [wish]}],
    }}}})
}

const SAID: &str = "0/9 nodes are available: 9 node(s) did not like it. preemption: 0/9 help.";

#[track_caller]
fn check(fact: &str, nodes: &[(&str, Node)], others: &[Pod], pod: &Pod, said: &str, line: &str) {
    let mut placement = Placement::default();
    for (name, node) in nodes {
        assert!(placement.take(name, node), "a new node is news");
        assert!(!placement.take(name, node), "the same again is none");
    }
    assert_eq!(placement.refusals(pod, others.iter(), said), line, "{fact}");
}

#[test]
fn one_node() {
    let say = |fact, node: Node, pod: &Pod, line: &str| {
        let line = format!("no node takes it: n: {line}");
        check(fact, &[("n", node)], &[], pod, SAID, &line);
    };
    let small = &pod("1Gi", json!({}));
    let plain = || node("riyadh", json!({}));
    say("cordoned", node("riyadh", json!({"unschedulable": true})), small, "cordoned");
    let mut down = plain();
    down.status.as_mut().unwrap().conditions = None;
    say("not heard of", down, small, "not ready");
    say("elsewhere", plain(), &pod("1Gi", in_zone("bangkok")), "wrong zone (riyadh)");
    let mut nowhere = plain();
    nowhere.metadata.labels = None;
    say("without a zone", nowhere, &pod("1Gi", in_zone("bangkok")), "in no zone");
    let slow = &pod("1Gi", json!({"nodeSelector": {"disk": "slow"}}));
    say("another label", plain(), slow, "no label disk=slow");
    let tainted = || {
        node("riyadh", json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}))
    };
    say("a taint", tainted(), small, "taint gpu=yes:NoSchedule");
    let other = json!({"tolerations": [{"key": "gpu", "value": "no"}]});
    say("a toleration of another", tainted(), &pod("1Gi", other), "taint gpu=yes:NoSchedule");
    let any = json!({"tolerations": [{"operator": "Exists"}]});
    say("one that tolerates all", tainted(), &pod("9Gi", any), "1 GiB of memory short");
    say("a little too large", plain(), &pod("8193Mi", json!({})), "1 MiB of memory short");
    say("too large", plain(), &pod("9400Mi", json!({})), "1.2 GiB of memory short");
}

#[test]
fn what_others_hold() {
    let placed = |node: &str, cpu: &str, phase: &str| -> Pod {
        serde_json::from_value(json!({
            "spec": {"nodeName": node, "containers": [{
                "name": "worker", "resources": {"requests": {"cpu": cpu, "memory": "7Gi"}},
            }]},
            "status": {"phase": phase},
        }))
        .unwrap()
    };
    let nodes = || [("n", node("riyadh", json!({})))];
    let say = |fact, others: &[Pod], memory: &str, said: &str, line: &str| {
        check(fact, &nodes(), others, &pod(memory, json!({})), said, line);
    };
    let line = "no node takes it: n: 1.5 GiB of memory short";
    say("memory", &[placed("n", "1", "Running")], "2560Mi", SAID, line);
    let line = "no node takes it: n: 0.5 cores short";
    say("cores", &[placed("n", "3500m", "Running")], "1Gi", SAID, line);
    let said = "0/1 nodes are available: 1 Insufficient memory. preemption: none.";
    let line = "no node takes it: n: too little memory left beside other pods";
    say("pods that are not ours", &[placed("n", "4", "Succeeded")], "2Gi", said, line);
    say("what only the scheduler knows", &[placed("m", "4", "Running")], "2Gi", SAID, SAID);
}

#[test]
fn devices() {
    const GPU: &str = "nvidia.com/gpu";
    let with = |gpus: u32| {
        let mut node = node("riyadh", json!({}));
        let allocatable = node.status.as_mut().unwrap().allocatable.as_mut().unwrap();
        allocatable.insert(GPU.into(), Quantity(gpus.to_string()));
        node
    };
    let asking = |gpus: u32, node: &str, more: Value| {
        let mut pod = pod("1Gi", more);
        let spec = pod.spec.as_mut().unwrap();
        spec.node_name = Some(node.to_owned());
        let requests = spec.containers[0].resources.as_mut().unwrap().requests.as_mut().unwrap();
        requests.insert(GPU.into(), Quantity(gpus.to_string()));
        pod
    };
    let product = json!({"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}});
    let say = |fact, node: Node, others: &[Pod], gpus, more: &Value, line: &str| {
        let line = format!("no node takes it: n: {line}");
        check(fact, &[("n", node)], others, &asking(gpus, "", more.clone()), SAID, &line);
    };
    let any = &json!({});
    say("a node without any", node("riyadh", json!({})), &[], 1, any, "no nvidia.com/gpu");
    say("or one whose are all ill", with(0), &[], 1, &product, "no nvidia.com/gpu");
    say("another product", with(2), &[], 1, &product, "no label nvidia.com/gpu.product=NVIDIA-L4");
    let taken = [asking(1, "n", json!({})), asking(1, "n", json!({})), asking(1, "m", json!({}))];
    let line = "insufficient nvidia.com/gpu: 1 short, 2 of 2 taken";
    say("all taken", with(2), &taken, 1, any, line);
    let line = "insufficient nvidia.com/gpu: 2 short, 1 of 2 taken";
    say("too few left", with(2), &taken[1..], 3, any, line);
    let said = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: none.";
    let line = "no node takes it: n: too little nvidia.com/gpu left beside other pods";
    let last = &asking(1, "", json!({}));
    check("taken by pods that are not ours", &[("n", with(2))], &taken[1..], last, said, line);
    let nodes = [("m", node("riyadh", json!({}))), ("n", with(2))];
    let line = "no node takes it: n: insufficient nvidia.com/gpu: 1 short, 2 of 2 taken; \
                m: no nvidia.com/gpu";
    check("who lacks least comes first", &nodes, &taken, last, SAID, line);
    check("who asks for none", &nodes[..1], &[], &pod("1Gi", json!({})), SAID, SAID);
}

#[test]
fn many_nodes() {
    let fits = &pod("1Gi", in_zone("riyadh"));
    check("none", &[], &[], fits, SAID, "the cluster has no nodes");
    let cordoned = || node("riyadh", json!({"unschedulable": true}));
    let mut nodes = vec![
        ("a", node("bangkok", json!({}))),
        ("b", cordoned()),
        ("c", node("riyadh", json!({}))),
        ("d", cordoned()),
    ];
    let line =
        "no node takes it: c: 2 GiB of memory short; a: wrong zone (bangkok); b, d: cordoned";
    check("nearest first", &nodes, &[], &pod("10Gi", in_zone("riyadh")), SAID, line);
    nodes.extend(["e", "f", "g"].map(|name| (name, cordoned())));
    let line = "no node takes it: c: 2 GiB of memory short; a: wrong zone (bangkok); \
                b, d, e and 2 more like it: cordoned";
    check("bounded names", &nodes, &[], &pod("10Gi", in_zone("riyadh")), SAID, line);
    let line = "no node takes it: a: wrong zone (bangkok); \
                b, d, e and 2 more like it: cordoned; \
                of 1 more the scheduler says: 0/9 nodes are available: 9 node(s) did not like it";
    check("one that should take it", &nodes, &[], fits, SAID, line);
    let zones: Vec<_> = ["h", "i", "j", "k"].map(|zone| (zone, node(zone, json!({})))).into();
    nodes.extend(zones);
    let line = "no node takes it: c: 2 GiB of memory short; a: wrong zone (bangkok); \
                h: wrong zone (h); i: wrong zone (i); and 7 more for other reasons";
    check("bounded reasons", &nodes, &[], &pod("10Gi", in_zone("riyadh")), SAID, line);
}

#[test]
fn news() {
    let mut placement = Placement::default();
    assert!(placement.take("n", &node("riyadh", json!({}))));
    assert!(placement.take("n", &node("riyadh", json!({"unschedulable": true}))));
    assert!(placement.forget("n"));
    assert!(!placement.forget("n"));
}
