use naru_plan::{Failures, ReplicaId, WeightsFault};
use naru_protocol::worker::v1::State;
use serde_json::{Value, json};

use super::*;

const NOW: Moment = Moment(1_780_000_100_000);

/// So many seconds before now, as the cluster writes it.
fn ago(seconds: u64) -> String {
    time(Moment(NOW.0 - seconds * 1000)).to_string()
}

fn set(metadata: Value) -> StatefulSet {
    let mut metadata = metadata;
    metadata["name"] = "solar-3".into();
    metadata["namespace"] = "serving".into();
    metadata["labels"] = json!({
        "naru.dev/model-deployment": "solar",
        "naru.dev/replica": "3",
        "naru.dev/revision": "00000000000000ff",
    });
    serde_json::from_value(json!({"metadata": metadata})).unwrap()
}

/// A pod of which `status` is told, on node1.
fn pod(status: Value) -> Pod {
    let metadata = json!({"name": "solar-3-0", "uid": "u", "creationTimestamp": ago(600)});
    let spec = json!({"nodeName": "node1", "containers": []});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
}

/// A pod whose container is in `state`, after `last`, and started so often.
fn pod_with(state: Value, last: Value, restarts: u32, is_ready: bool) -> Pod {
    let truth = if is_ready { "True" } else { "False" };
    pod(json!({
        "podIP": "10.0.0.7",
        "conditions": [{"type": "Ready", "status": truth}],
        "containerStatuses": [{
            "name": "worker", "image": "naru/worker:9", "imageID": "", "ready": is_ready,
            "started": is_ready, "restartCount": restarts, "state": state, "lastState": last,
        }],
    }))
}

fn running() -> Value {
    json!({"running": {"startedAt": ago(60)}})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

fn ended(code: i32, reason: &str, seconds_ago: u64, message: &str) -> Value {
    let at = ago(seconds_ago);
    json!({"terminated": {
        "exitCode": code, "reason": reason, "finishedAt": at, "message": message,
    }})
}

fn good_node() -> NodeState {
    NodeState { is_ready: true, since: Moment(0), is_cordoned: false }
}

fn told(state: State) -> Told {
    let report = StatusReport { state: state.into(), ..StatusReport::default() };
    Told { report, is_live: true, has_served: state == State::Ready, has_drained: false }
}

/// What a replica comes to, in few words: phase, and d draining, s has served, m must move.
fn words(replica: &Replica) -> String {
    let phase = match &replica.phase {
        Phase::Pending { why } => format!("pending: {why}"),
        Phase::Silent { .. } => "silent".to_owned(),
        Phase::Fetching { .. } => "fetching".to_owned(),
        Phase::Loading => "loading".to_owned(),
        Phase::Apart { lost } => format!("apart: {lost:?}"),
        Phase::Ready => "ready".to_owned(),
        Phase::Stopped { failure, .. } => format!("stopped: {failure}"),
    };
    let mut words = phase;
    let flags = [
        (replica.drain_since.is_some(), " d"),
        (replica.has_served, " s"),
        (replica.displaced, " m"),
    ];
    flags.iter().filter(|(holds, _)| *holds).for_each(|(_, flag)| words.push_str(flag));
    words
}

struct Case {
    set: StatefulSet,
    pod: Option<Pod>,
    node: Option<NodeState>,
    told: Option<Told>,
    trouble: Option<PendingReason>,
    is_foreign: bool,
}

fn case(pod: Option<Pod>) -> Case {
    Case {
        set: set(json!({})),
        pod,
        node: Some(good_node()),
        told: None,
        trouble: None,
        is_foreign: false,
    }
}

impl Case {
    fn parts(&self) -> Parts<'_> {
        Parts::new(&self.set, self.is_foreign, NOW, |_| Found {
            pod: self.pod.as_ref(),
            node: self.node,
            told: self.told.as_ref(),
            trouble: self.trouble.as_ref(),
        })
    }
}

#[track_caller]
fn check(fact: &str, case: &Case, expected: &str) {
    let replica = replica(&case.parts()).expect("it is one of ours");
    assert_eq!((replica.id, replica.revision.0), (ReplicaId(3), 255));
    assert_eq!(words(&replica), expected, "{fact}");
}

#[test]
fn pods_that_their_node_cannot_start() {
    let creating = |seconds_ago, has_both: bool| {
        let truth = if has_both { "True" } else { "False" };
        let status = json!({
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(seconds_ago)},
                {"type": "PodReadyToStartContainers", "status": truth},
            ],
            "containerStatuses": [{
                "name": "worker", "image": "naru/worker:9", "imageID": "", "ready": false,
                "restartCount": 0, "state": waiting("ContainerCreating", ""),
            }],
        });
        let trouble = Some(PendingReason::MountMissing("secret \"x\" not found".into()));
        Case { trouble, ..case(Some(pod(status))) }
    };
    let fails = "pending: secret \"x\" not found";
    let is_new = "pending: it is about to be placed";
    check("a volume that is not there", &creating(9, false), fails);
    check("it may be there soon", &creating(1, false), is_new);
    check("it is there: an image is fetched", &creating(9, true), is_new);
    let untold = Case { trouble: None, ..creating(9, false) };
    check("nobody knows why", &untold, is_new);
}

#[test]
fn pods_that_do_not_run_yet() {
    check("no pod yet", &case(None), "pending: it is about to be placed");
    let trouble = Some(PendingReason::QuotaExceeded("exceeded quota: small".into()));
    let refused = Case { trouble, ..case(None) };
    check("no pod, as nobody may make it", &refused, "pending: exceeded quota: small");
    let unscheduled = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/2 nodes are available: 2 Insufficient memory.",
    }]});
    check(
        "no room",
        &case(Some(pod(unscheduled))),
        "pending: 0/2 nodes are available: 2 Insufficient memory.",
    );
    let gated = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
    }]});
    let at_the_gate = &case(Some(pod(gated)));
    check("others of its group are missing", at_the_gate, "pending: it is about to be placed");
    let of = |state| case(Some(pod_with(state, json!({}), 0, false)));
    check(
        "an image that does not exist",
        &of(waiting("ImagePullBackOff", "not found")),
        "pending: image naru/worker:9: not found",
    );
    check(
        "an image that must be there already",
        &of(waiting("ErrImageNeverPull", "")),
        "pending: image naru/worker:9: ErrImageNeverPull",
    );
    check(
        "a secret that does not exist",
        &of(waiting("CreateContainerConfigError", "secret \"hf\" not found")),
        "pending: secret \"hf\" not found",
    );
    check("a start", &of(waiting("ContainerCreating", "")), "pending: it is about to be placed");
}

#[test]
fn pods_that_run() {
    let of =
        |is_ready, told| Case { told, ..case(Some(pod_with(running(), json!({}), 0, is_ready))) };
    check("not heard of", &of(false, None), "pending: it is about to be placed");
    check("fetching", &of(false, Some(told(State::Fetching))), "fetching");
    check("loading", &of(false, Some(told(State::Loading))), "loading");
    check("ready, sooner than the kubelet knows", &of(false, Some(told(State::Ready))), "ready s");
    check("ready, though only the kubelet hears it", &of(true, None), "ready s");
    let broken = Told { is_live: false, ..told(State::Loading) };
    check("a broken stream is not believed", &of(true, Some(broken)), "ready s");
    check(
        "its own word counts more than an old probe",
        &of(true, Some(told(State::Loading))),
        "loading s",
    );
}

#[test]
fn weights_that_are_refused() {
    let log = r#"{"level":"ERROR","message":"401","weights_fault":"WEIGHTS_FAULT_UNAUTHORIZED"}"#;
    let back_off = waiting("CrashLoopBackOff", "back-off 5m0s");
    let refused = case(Some(pod_with(back_off, ended(1, "Error", 9, log), 1, false)));
    let phase = replica(&refused.parts()).unwrap().phase;
    let failure = WorkerFailure::Weights(WeightsFault::Unauthorized, "401".into());
    assert_eq!(phase, Phase::Stopped { at: Moment(NOW.0 - 9000), failure });
}

#[test]
fn workers_that_end() {
    let of = |state, last| case(Some(pod_with(state, last, 4, false)));
    let back_off = || waiting("CrashLoopBackOff", "back-off 5m0s");
    let log = r#"{"level":"ERROR","message":"no such file: /m.gguf"}"#;
    check(
        "weights that do not exist",
        &of(back_off(), ended(1, "Error", 9, log)),
        "stopped: no such file: /m.gguf",
    );
    check(
        "arguments that are refused",
        &of(ended(2, "Error", 0, log), json!({})),
        "stopped: no such file: /m.gguf",
    );
    check(
        "too much memory",
        &of(back_off(), ended(137, "OOMKilled", 9, "")),
        "stopped: the worker used more memory than resources.limits.memory allows",
    );
    check(
        "killed",
        &of(back_off(), ended(137, "Error", 9, "")),
        "stopped: the worker ended with exit code 137",
    );
    let again = of(running(), ended(137, "Error", 9, ""));
    check("and started again", &again, "pending: it is about to be placed");
    assert_eq!(replica(&again.parts()).unwrap().failures, Failures(4));
}

#[test]
fn workers_without_a_gpu() {
    let log = r#"{"level":"ERROR","message":"no usable GPU: no driver","fault":"NO_USABLE_GPU"}"#;
    let why = |case: &Case| {
        let replica = replica(&case.parts()).unwrap();
        let Phase::Stopped { at, failure } = replica.phase else { return None };
        let seconds_ago = (NOW.0 - at.0) / 1000;
        Some((failure, seconds_ago, replica.failures.0))
    };
    let expected = |failures| {
        let words = "no usable GPU: no driver; its node needs NVIDIA's driver and device plugin, \
                     and its pod a runtime class that gives it the driver \
                     (accelerator.runtimeClassName)";
        Some((WorkerFailure::NoUsableGpu(words.to_owned()), 9, failures))
    };
    let ended_so = || ended(2, "Error", 9, log);
    let of = |state, last, restarts| case(Some(pod_with(state, last, restarts, false)));
    assert_eq!(why(&of(ended_so(), json!({}), 0)), expected(1), "it ended");
    let back_off = waiting("CrashLoopBackOff", "back-off 10s");
    assert_eq!(why(&of(back_off, ended_so(), 0)), expected(1), "it waits for its next start");
    let again = || of(running(), ended_so(), 1);
    assert_eq!(why(&again()), expected(1), "it is started, and says nothing");
    let heard = Case { told: Some(told(State::Loading)), ..again() };
    check("it has found one", &heard, "loading");
    let ready = case(Some(pod_with(running(), ended_so(), 1, true)));
    check("it answers, and only the kubelet hears it", &ready, "ready s");
    let config = r#"{"level":"ERROR","message":"--device needs --backend cuda"}"#;
    let config = of(running(), ended(2, "Error", 9, config), 1);
    check("arguments stay as they are, too", &config, "stopped: --device needs --backend cuda");
    let loads = of(running(), ended(1, "Error", 9, log), 1);
    check("what had begun may begin", &loads, "pending: it is about to be placed");
}

#[test]
fn drains() {
    let draining = |pod| Case {
        set: set(json!({"annotations": {"naru.dev/drain-since": ago(10)}})),
        ..case(pod)
    };
    let ready = pod_with(running(), json!({}), 0, true);
    check("it still answers", &draining(Some(ready.clone())), "ready d s");
    let done = pod_with(running(), ended(0, "Completed", 2, ""), 1, false);
    check(
        "it ended, and was started again",
        &draining(Some(done)),
        "stopped: the worker ended with exit code 0 d",
    );
    let silent = Told { is_live: false, has_drained: true, ..told(State::Draining) };
    let silent = Case { told: Some(silent), ..draining(Some(ready.clone())) };
    check("it said nothing more after it had drained", &silent, "stopped: it has drained d s");
    let crashed = pod_with(running(), ended(1, "Error", 60, ""), 1, true);
    check("it ended before that", &draining(Some(crashed)), "ready d s");
    check("its pod is gone", &draining(None), "stopped: its pod is gone d");
    let deleted =
        Case { set: set(json!({"deletionTimestamp": ago(1)})), ..case(Some(ready.clone())) };
    check("a StatefulSet that is being deleted", &deleted, "ready d s");
    let foreign = Case { is_foreign: true, ..case(Some(ready)) };
    check("one of an earlier deployment", &foreign, "stopped: its model deployment is gone d s");
}

#[test]
fn nodes() {
    let ready = || Some(pod_with(running(), json!({}), 0, true));
    let gone = |seconds: u64| {
        Some(NodeState {
            is_ready: false,
            since: Moment(NOW.0 - seconds * 1000),
            is_cordoned: false,
        })
    };
    let on = |node| Case { node, ..case(ready()) };
    let cordoned = NodeState { is_cordoned: true, ..good_node() };
    check("a node that is cleared", &on(Some(cordoned)), "ready s m");
    let lost = "stopped: node node1 does not answer s";
    check("a node that is silent", &on(gone(19)), lost);
    assert!(!on(gone(19)).parts().first().is_lost(), "it may come back");
    assert!(on(gone(20)).parts().first().is_lost(), "it will not");
    let at = |case: &Case| match replica(&case.parts()).unwrap().phase {
        Phase::Stopped { at, .. } => at,
        phase => unreachable!("{phase:?}"),
    };
    assert_eq!(at(&on(gone(19))), Moment(NOW.0 + 1000), "when it is started elsewhere");
    check("a node that does not exist", &on(None), "stopped: node node1 does not answer s");
    let heard = Case { told: Some(told(State::Ready)), ..on(gone(99)) };
    check("a node of which only the kubelet is lost", &heard, "ready s m");
    let mut going = pod_with(running(), json!({}), 0, true);
    going.metadata.deletion_timestamp = Some(Time(time(NOW)));
    check("a pod that somebody deletes", &case(Some(going)), "silent s m");
}

#[test]
fn endpoints() {
    let ready = case(Some(pod_with(running(), json!({}), 0, true)));
    let Endpoint { replica, address, ready: is_ready, draining } = endpoint(&ready.parts());
    assert_eq!((replica.as_str(), address.as_str()), ("solar-3", "10.0.0.7:8000"));
    assert!(is_ready && !draining);
    let nowhere = endpoint(&case(None).parts());
    assert!(!nowhere.ready && nowhere.address.is_empty(), "without a pod there is no address");
    assert_eq!(socket("fd00::1", 8000), "[fd00::1]:8000");
}

/// A replica of two members, the second of which is as given.
fn pair(second: Option<&Pod>, told_first: &Told, told_second: Option<&Told>) -> Replica {
    let mut set = set(json!({}));
    set.spec.replicas = Some(2);
    let first = pod_with(running(), json!({}), 0, told_first.report.state() == State::Ready);
    let parts = Parts::new(&set, false, NOW, |name| match name {
        "solar-3-0" => Found {
            pod: Some(&first),
            node: Some(good_node()),
            told: Some(told_first),
            trouble: None,
        },
        _ => Found { pod: second, node: Some(good_node()), told: told_second, trouble: None },
    });
    replica(&parts).unwrap()
}

#[test]
fn members_are_taken_together() {
    let is = |fact: &str, replica: Replica, expected: &str| {
        assert_eq!(words(&replica), expected, "{fact}");
    };
    let second = |state, last| pod_with(state, last, 0, false);
    let up = second(running(), json!({}));
    let ready = told(State::Ready);
    is("both answer", pair(Some(&up), &ready, Some(&ready)), "ready s");
    let mut apart = Told { has_served: true, ..told(State::Apart) };
    apart.report.lost_rank = Some(1);
    let gone = "rank 1 (pod solar-3-1 on node node1): the worker ended with exit code 137";
    let down = second(ended(137, "Error", 1, ""), json!({}));
    let expected = format!("stopped: {gone} s");
    is("the other was killed", pair(Some(&down), &apart, None), &expected);
    let back = second(running(), ended(137, "Error", 1, ""));
    let loading = told(State::Loading);
    let expected = format!("apart: Some({gone:?}) s");
    is("and loads again", pair(Some(&back), &apart, Some(&loading)), &expected);
    let new = told(State::Apart);
    is("both wait for each other", pair(Some(&up), &new, Some(&new)), "apart: None");
    is("the other has no pod", pair(None, &new, None), "pending: it is about to be placed");
    let mut going = up.clone();
    going.metadata.deletion_timestamp = Some(Time(time(NOW)));
    is("somebody deletes it", pair(Some(&going), &ready, Some(&ready)), "silent s m");
    going.spec.as_mut().unwrap().node_name = None;
    going.status = None;
    is("it was withdrawn before it was placed", pair(Some(&going), &new, None), "silent");
}
