//! What people see.

use serde_json::{Value, json};

use super::super::{Budget, Queue};
use super::*;

/// 2026-01-01T01:00:00Z
const NOW: Moment = Moment(1_767_229_200_000);
const AN_HOUR_AGO: &str = "2026-01-01T00:00:00Z";
const A_MINUTE_AGO: &str = "2026-01-01T00:59:00Z";

fn time(text: &str) -> Time {
    serde_json::from_value(json!(text)).unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Condition {
    serde_json::from_value(json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": A_MINUTE_AGO,
    }))
    .unwrap()
}

fn replica(name: &str, phase: &str, why: &str) -> Replica {
    let is_ready = phase == "Ready";
    Replica {
        name: name.into(),
        phase: phase.into(),
        why: why.into(),
        node: is_ready.then(|| "node1".into()),
        zone: is_ready.then(|| "riyadh".into()),
        address: is_ready.then(|| "10.1.2.3:8000".into()),
        created: Some(time(AN_HOUR_AGO)),
        revision: "ab".into(),
        failures: 0,
        queue: is_ready.then_some(Queue { running: 4, waiting: 1 }),
    }
}

fn deployment(name: &str, ready: u64, conditions: Vec<Condition>) -> Deployment {
    Deployment {
        namespace: "serving".into(),
        name: name.into(),
        created: Some(time(AN_HOUR_AGO)),
        serves: vec![name.into(), "chat".into()],
        uri: "hf://makers/solar".into(),
        backend: "cpu".into(),
        zones: vec!["riyadh".into()],
        wished: 2,
        ready,
        updated: Some(1),
        is_ready: conditions.first().is_some_and(|ready| ready.status == "True"),
        reason: conditions.first().map_or("NotReported", |ready| &ready.reason).to_owned(),
        charged_watts: Some(700),
        conditions,
        scaling: Vec::new(),
        replicas: Vec::new(),
    }
}

fn serving() -> Deployment {
    let conditions = vec![
        condition("Ready", "True", "Serving", "2 of 2 replicas answer"),
        condition("WeightsAvailable", "True", "WeightsLoaded", "the weights were accepted"),
    ];
    let replicas = vec![replica("solar-0", "Ready", ""), replica("solar-1", "Ready", "")];
    Deployment { replicas, ..deployment("solar", 2, conditions) }
}

fn waiting() -> Deployment {
    let words = "0 of 2 replicas answer; replica 0 cannot start: \
                 no node takes it: node1: cordoned; try: kubectl describe pod -n serving \
                 -l naru.dev/model-deployment=moon";
    let conditions = vec![
        condition("Ready", "False", "Unschedulable", words),
        condition("WorkersReady", "False", "Unschedulable", words),
        condition("WeightsAvailable", "Unknown", "Fetching", "no replica has loaded them yet"),
    ];
    let replicas = vec![replica("moon-0", "Unschedulable", "0/1 nodes are available")];
    Deployment { replicas, ..deployment("moon", 0, conditions) }
}

#[track_caller]
fn check(fact: &str, overview: &Overview, scope: &Scope, style: Style, expected: &str) {
    assert_eq!(screen(overview, scope, style, NOW), expected, "{fact}");
}

#[test]
fn all_of_them() {
    let budget = Budget {
        name: "site".into(),
        parent: None,
        watts: 9000,
        charged_watts: Some(1400),
        headroom_watts: Some(7600),
        broken: None,
    };
    let overview = Overview {
        model_deployments: vec![waiting(), serving()],
        power_budgets: vec![budget],
        notes: vec!["zones of nodes are not shown: no right".into()],
    };
    let expected = "\
NAMESPACE  NAME   READY  STATE          AGE  RUNNING  WAITING  WATTS  SERVES
serving    moon   0/2    Unschedulable  60m  -        -        700    moon,chat
serving    solar  2/2    Serving        60m  8        2        700    solar,chat

WAITS
  md/moon -n serving: Ready Unschedulable (for 60s)
    0 of 2 replicas answer; replica 0 cannot start: no node takes it: node1: cordoned
    try: kubectl describe pod -n serving -l naru.dev/model-deployment=moon

POWER BUDGET  PARENT  WATTS  CHARGED  HEADROOM  TROUBLE
site          -       9000   1400     7600

zones of nodes are not shown: no right
";
    check("a table", &overview, &Scope::Everywhere, Style::default(), expected);
    let wide = Style { is_wide: true, ..Style::default() };
    let text = screen(&overview, &Scope::Everywhere, wide, NOW);
    assert!(text.contains("cpu      riyadh  hf://makers/solar  solar,chat\n"), "{text}");
    let colours = Style { has_colours: true, ..Style::default() };
    let text = screen(&overview, &Scope::Everywhere, colours, NOW);
    assert!(text.contains("\x1b[31mUnschedulable\x1b[0m"), "{text}");
    assert!(text.contains("\x1b[32mServing\x1b[0m"), "{text}");
}

#[test]
fn narrow_terminals() {
    let overview = Overview { model_deployments: vec![waiting()], ..Overview::default() };
    let style = Style { width: Some(50), ..Style::default() };
    let text = screen(&overview, &Scope::Everywhere, style, NOW);
    let waits = text.split_once("WAITS\n").expect("it waits").1;
    let expected = "  md/moon -n serving: Ready Unschedulable (for\n  60s)\n    \
                    0 of 2 replicas answer; replica 0 cannot\n    \
                    start: no node takes it: node1: cordoned\n    \
                    try: kubectl describe pod -n serving -l naru.dev/model-deployment=moon\n";
    assert_eq!(waits, expected, "sentences are wrapped, commands stay whole");
}

#[test]
fn one_of_them() {
    let scope = Scope::One { namespace: "serving".into(), name: "solar".into() };
    let decision: Value = json!({
        "time": A_MINUTE_AGO, "from": 1, "to": 2, "reason": "r", "message": "9000 tokens wait",
    });
    let scaling = vec![serde_json::from_value(decision).unwrap()];
    let scaled = Deployment { scaling, ..serving() };
    let overview = Overview { model_deployments: vec![scaled], ..Overview::default() };
    let expected = "\
md/solar in namespace serving
  state     Serving: 2 of 2 replicas answer
  rollout   1 of 2 replicas are of the present template
  serves    solar, chat
  model     hf://makers/solar (backend cpu)
  zones     riyadh
  watts     700 charged
  requests  8 running, 2 waiting

CONDITIONS
  Ready True Serving (for 60s)
    2 of 2 replicas answer
  WeightsAvailable True WeightsLoaded (for 60s)
    the weights were accepted

REPLICA  PHASE  NODE   ZONE    AGE  FAILURES  RUNNING  WAITING  WHY
solar-0  Ready  node1  riyadh  60m  0         4        1
solar-1  Ready  node1  riyadh  60m  0         4        1

SCALING, THE NEWEST FIRST
  60s ago, 1 to 2: 9000 tokens wait
";
    check("all about it", &overview, &scope, Style::default(), expected);
    let overview = Overview { model_deployments: vec![waiting()], ..Overview::default() };
    let text = screen(&overview, &scope, Style::default(), NOW);
    assert_eq!(text.matches("no node takes it").count(), 1, "what two say is said once: {text}");
    let new = Deployment { updated: None, charged_watts: None, ..deployment("sun", 0, vec![]) };
    let overview = Overview { model_deployments: vec![new], ..Overview::default() };
    let text = screen(&overview, &scope, Style::default(), NOW);
    assert!(text.contains("The operator has not reported yet; try: kubectl"), "{text}");
}

#[test]
fn nothing_at_all() {
    let overview = Overview::default();
    let expected =
        "No model deployments; to describe a first one: kubectl explain modeldeployment.spec\n";
    check("anywhere", &overview, &Scope::Everywhere, Style::default(), expected);
    let expected = "No model deployments in namespace serving; of all namespaces: naru status -A\n";
    check("here", &overview, &Scope::Namespace("serving".into()), Style::default(), expected);
}

#[test]
fn what_is_waited_for() {
    let reasons = |conditions: Vec<Condition>| -> String {
        let deployment = deployment("solar", 1, conditions);
        troubles(&deployment).iter().map(|c| c.reason.as_str()).collect::<Vec<_>>().join(" ")
    };
    let ready = |status, reason| condition("Ready", status, reason, "m");
    assert_eq!(reasons(vec![ready("True", "Serving")]), "");
    assert_eq!(reasons(vec![ready("False", "ScaledToZero")]), "", "nobody waits for that");
    assert_eq!(reasons(vec![ready("True", "Replacing")]), "Replacing");
    let power = condition("PowerFits", "False", "PowerBudgetFull", "m");
    assert_eq!(reasons(vec![ready("True", "Serving"), power]), "PowerBudgetFull");
}
