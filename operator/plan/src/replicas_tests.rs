use std::num::NonZeroU32;

use super::*;
use crate::*;

pub(crate) const NOW: Moment = Moment(1_000_000);
const DRAIN: Millis = Millis::from_seconds(60);

pub(crate) fn template(uri: &str) -> Template {
    let name = ServedName::parse("solar").unwrap();
    Template {
        model: ModelSource { uri: ModelUri::parse(uri).unwrap(), sha256: None, secret: None },
        names: ServedNames::new(vec![name]).unwrap(),
        backend: Backend::Cpu,
        engine: EngineLimits {
            max_sequences: 8,
            max_batch_tokens: 64,
            max_context_tokens: None,
            kv_cache: Bytes(1 << 30),
            prefix_cache: PrefixCache::Tenant,
        },
        parallelism: Parallelism::default(),
        resources: Resources { memory: Some(Bytes(10)), ..Resources::default() },
        zones: [].into(),
        overlay: Overlay::default(),
        program: Program::default(),
    }
}

pub(crate) fn new_template() -> Template {
    template("file:///models/new.gguf")
}

pub(crate) fn old_revision() -> Revision {
    template("file:///models/old.gguf").revision()
}

pub(crate) fn wish(replicas: u32) -> Desired {
    Desired {
        name: DeploymentName::parse("default", "solar").unwrap(),
        template: new_template(),
        replicas: ReplicaCount(replicas),
        scaling: None,
        access: Access::All,
        rollout: Rollout::default(),
        drain: DRAIN,
        power: None,
    }
}

pub(crate) fn ready(id: u32) -> Replica {
    Replica {
        id: ReplicaId(id),
        revision: new_template().revision(),
        phase: Phase::Ready,
        created: Moment(NOW.0 - 1000),
        ready_since: Some(Moment(0)),
        drain_since: None,
        has_served: true,
        failures: Failures(0),
        displaced: false,
    }
}

pub(crate) fn loading(id: u32) -> Replica {
    Replica { phase: Phase::Loading, ready_since: None, has_served: false, ..ready(id) }
}

pub(crate) fn crashed(id: u32, failures: u32, ago: u64) -> Replica {
    let failure = WorkerFailure::Ended("signal 9".into());
    let phase = Phase::Stopped { at: Moment(NOW.0 - ago), failure };
    Replica { phase, ready_since: None, failures: Failures(failures), ..ready(id) }
}

fn pending(id: u32, why: PendingReason) -> Replica {
    Replica { phase: Phase::Pending { why }, ready_since: None, has_served: false, ..ready(id) }
}

pub(crate) fn no_room(id: u32) -> Replica {
    pending(id, PendingReason::Unschedulable("0/2 nodes are available".into()))
}

fn silent(id: u32, seconds: u64) -> Replica {
    let since = Moment(NOW.0 - seconds * 1000);
    Replica { phase: Phase::Silent { since }, ready_since: None, ..ready(id) }
}

pub(crate) fn draining(replica: Replica, seconds: u64) -> Replica {
    Replica { drain_since: Some(Moment(NOW.0 - seconds * 1000)), ..replica }
}

pub(crate) fn old(replica: Replica) -> Replica {
    Replica { revision: old_revision(), ..replica }
}

pub(crate) fn displaced(replica: Replica) -> Replica {
    Replica { displaced: true, ..replica }
}

pub(crate) fn seen(replicas: impl Into<Vec<Replica>>) -> Observed {
    Observed { replicas: replicas.into(), memory_free: None }
}

/// What the plan does, as `+0` create, `~0` restart, `-0` drain, `x0` remove.
pub(crate) fn story(plan: &Plan) -> String {
    let word = |action: &Action| match action {
        Action::Create(id) => format!("+{id}"),
        Action::Restart(id) => format!("~{id}"),
        Action::Drain(id) => format!("-{id}"),
        Action::Remove(id) => format!("x{id}"),
    };
    plan.actions.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(fact: &str, wished: u32, replicas: impl Into<Vec<Replica>>, expected: &str) {
    assert_eq!(story(&plan(&wish(wished), &seen(replicas), None, NOW)), expected, "{fact}");
}

/// What the budgets allow a deployment that wishes for more.
fn allowed(replicas: u32, surge: u32, creations: u32) -> Allowance {
    let (truth, reason, message) = (Truth::False, Reason::PowerBudgetFull, "no watts".to_owned());
    Allowance {
        replicas: ReplicaCount(replicas),
        surge: ReplicaCount(surge),
        creations: ReplicaCount(creations),
        charged: Watts(0),
        verdict: power::Verdict { truth, reason, message },
    }
}

#[test]
fn power() {
    let check = |fact: &str, wished, allowed: Allowance, replicas: &[Replica], expected: &str| {
        let plan = plan(&wish(wished), &seen(replicas), Some(&allowed), NOW);
        assert_eq!(story(&plan), expected, "{fact}");
    };
    check("no more are made than fit", 3, allowed(2, 0, 2), &[], "+0 +1");
    check("nor before there is room", 3, allowed(3, 0, 1), &[ready(0)], "+1");
    let three = [ready(0), ready(1), ready(2)];
    check("what does not fit drains, the youngest first", 3, allowed(1, 0, 0), &three, "-1 -2");
    let two = [old(ready(0)), old(ready(1))];
    check("no successor without power", 2, allowed(2, 0, 0), &two, "");
    check("one with", 2, allowed(2, 1, 1), &two, "+2");
    let both = [old(ready(0)), old(ready(1)), loading(2)];
    check("it stays", 2, allowed(2, 1, 0), &both, "");
    check("until its watts are another's", 2, allowed(2, 0, 0), &both, "x2");
    let one = Rollout {
        strategy: Strategy::InPlace { max_unavailable: NonZeroU32::MIN },
        ..Rollout::default()
    };
    let in_place = Desired { rollout: one, ..wish(2) };
    let goes = plan(&in_place, &seen(two), Some(&allowed(2, 0, 0)), NOW);
    assert_eq!(story(&goes), "-1", "in place the old one goes first");
    check("as do those that answer", 1, allowed(0, 0, 0), &[ready(0)], "-0");
    let said = plan(&wish(3), &seen([ready(0)]), Some(&allowed(1, 0, 0)), NOW).conditions;
    let words = |kind| {
        let found = said.iter().find(|condition| condition.kind == kind).unwrap();
        format!("{:?} {:?} {}", found.truth, found.reason, found.message)
    };
    let ready = "False PowerBudgetFull 1 of 3 replicas answer; no watts";
    assert_eq!(words(ConditionKind::Ready), ready);
    assert_eq!(words(ConditionKind::PowerFits), "False PowerBudgetFull no watts");
}

#[test]
fn scaling() {
    check("nothing wished, nothing there", 0, [], "");
    check("what is missing is made", 2, [], "+0 +1");
    check("what is there stays", 2, [ready(0), ready(1)], "");
    check("a free number is used again", 3, [ready(0), ready(2)], "+1");
    check("one too many drains, the youngest first", 1, [ready(0), ready(1)], "-1");
    check("but one that is not ready goes before it", 1, [loading(0), ready(1)], "x0");
    check("to zero drains all", 0, [ready(0), ready(1)], "-0 -1");
    check("one that drains counts no more", 1, [draining(ready(0), 1)], "+1");
    check("and is removed when it stopped", 0, [draining(crashed(0, 0, 0), 1)], "x0");
    check("or when its time is over", 0, [draining(ready(0), 65)], "x0");
    check("not before", 0, [draining(ready(0), 64)], "");
}

#[test]
fn restarting() {
    check("a crash waits a quarter of a second", 1, [crashed(0, 1, 249)], "");
    check("and is started again", 1, [crashed(0, 1, 250)], "~0");
    check("the fourth time after two seconds", 1, [crashed(0, 4, 1999)], "");
    check("not sooner", 1, [crashed(0, 4, 2000)], "~0");
    check("one that is not wished any more is not", 0, [crashed(0, 1, 9999)], "x0");
    check("a crashed one goes before a ready one", 1, [ready(1), crashed(0, 1, 9999)], "x0");
    check("a silent one has half a minute", 1, [silent(0, 29)], "");
    check("then it is started again", 1, [silent(0, 30)], "~0");
}

#[test]
fn replacing() {
    check("a successor is made beside the old one", 1, [old(ready(0))], "+1");
    check("the old one serves on while it loads", 1, [old(ready(0)), loading(1)], "");
    check("and drains once it is ready", 1, [old(ready(0)), ready(1)], "-0");
    check("one at a time", 2, [old(ready(0)), old(ready(1))], "+2");
    check(
        "the first to go makes room for the next",
        2,
        [old(ready(0)), old(ready(1)), ready(2)],
        "-1 +3",
    );
    check("the last one has to wait for its own", 2, [old(ready(0)), ready(2), loading(3)], "");
    check("an old one that never answered goes at once", 1, [old(loading(0))], "x0 +1");
    check(
        "an old one that crashed is restarted meanwhile",
        1,
        [old(crashed(0, 1, 250)), loading(1)],
        "~0",
    );
    check(
        "a bad successor does not end the old one",
        1,
        [old(ready(0)), Replica { has_served: false, ..crashed(1, 9, 0) }],
        "",
    );
    check(
        "fewer and newer at once keeps one answering",
        1,
        [old(ready(0)), old(ready(1)), loading(2)],
        "-1",
    );
}

#[test]
fn pending_replicas() {
    check("one that has no room waits for it", 1, [no_room(0)], "");
    check("and is not made twice", 2, [ready(1), no_room(0)], "");
    check("it goes before any that runs", 1, [loading(0), no_room(1)], "x1");
    check("also before one that crashed", 1, [crashed(0, 1, 0), no_room(1)], "x1");
    check("a successor without room ends nobody", 1, [old(ready(0)), no_room(1)], "");
    check("an old one without room makes room at once", 1, [old(no_room(0))], "x0 +1");
    check("one that drained before it ran is gone in time", 0, [draining(no_room(0), 65)], "x0");
}

fn cuda(resource: &str, product: Option<&str>, runtime: Option<&str>) -> Backend {
    Backend::Cuda(Accelerator {
        resource: ResourceName::parse(resource).unwrap(),
        product: product.map(|product| LabelValue::parse(product).unwrap()),
        runtime: runtime.map(|runtime| ObjectName::parse(runtime).unwrap()),
    })
}

#[test]
fn revisions() {
    let revision = |change: fn(&mut Template)| {
        let mut template = new_template();
        change(&mut template);
        template.revision()
    };
    let differs = |fact: &str, change: fn(&mut Template)| {
        assert_ne!(revision(change), revision(|_| ()), "{fact}");
    };
    differs("another backend", |template| template.backend = Backend::Sim);
    differs("an accelerator", |template| template.backend = cuda("a/b", None, None));
    differs("a zone", |template| template.zones = [ZoneName::parse("a").unwrap()].into());
    differs("another overlay", |template| template.overlay = Overlay("{}".into()));
    differs("another program", |template| template.program = Program("worker:2".into()));
    differs("a request", |template| {
        template.resources.requests.cpu = Some(Millicores(1));
    });
    differs("a limit", |template| template.resources.limits.memory = Some(Bytes(1)));
    let accelerated = |resource, product, runtime| {
        Template { backend: cuda(resource, product, runtime), ..new_template() }.revision()
    };
    let any = accelerated("a/b", None, None);
    assert_ne!(accelerated("a/c", None, None), any, "counted as another");
    assert_ne!(accelerated("a/b", Some("h"), None), any, "one product");
    assert_ne!(accelerated("a/b", None, Some("h")), any, "another runtime");
    assert_ne!(accelerated("a/b", None, Some("h")), accelerated("a/b", Some("h"), None));
    let placed = |zone: &str, overlay: &str| {
        let zones = [ZoneName::parse(zone).unwrap()].into();
        let overlay = Overlay(overlay.into());
        Template { zones, overlay, ..new_template() }.revision()
    };
    assert_ne!(placed("a", "bc"), placed("ab", "c"), "words do not run into one another");
}

#[test]
fn leaving() {
    check("a successor is made for one whose place is cleared", 1, [displaced(ready(0))], "+1");
    check("it serves on meanwhile", 1, [displaced(ready(0)), loading(1)], "");
    check("and drains once that is ready", 1, [displaced(ready(0)), ready(1)], "-0");
    check("one that never answered goes at once", 1, [displaced(loading(0))], "x0 +1");
    check("a place that is kept after all keeps it", 1, [ready(0), loading(1)], "x1");
}

#[test]
fn memory() {
    let room = |free| Observed { replicas: vec![], memory_free: Some(Bytes(free)) };
    let two = |free| plan(&wish(2), &room(free), None, NOW);
    assert_eq!(story(&two(20)), "+0 +1", "both fit");
    assert_eq!(story(&two(19)), "+0", "one fits");
    assert_eq!(two(19).next_check, NextCheck::In(Millis(5000)), "the other is tried again");
    assert_eq!(two(9).conditions[0].reason, Reason::InsufficientMemory, "and it is said");
}

#[test]
fn next_checks() {
    let next = |replicas: Vec<Replica>| plan(&wish(1), &seen(replicas), None, NOW).next_check;
    assert_eq!(next(vec![ready(0)]), NextCheck::OnChange, "nothing to wait for");
    assert_eq!(next(vec![crashed(0, 1, 100)]), NextCheck::In(Millis(150)), "the back-off");
    assert_eq!(next(vec![silent(0, 10)]), NextCheck::In(Millis(20_000)), "the silence");
    let both = vec![silent(0, 10), draining(ready(1), 64)];
    assert_eq!(next(both), NextCheck::In(Millis(1000)), "whatever comes first");
}

/// The reasons of Ready, WorkersReady and WeightsAvailable, as one sentence.
#[track_caller]
fn check_status(fact: &str, wished: u32, replicas: impl Into<Vec<Replica>>, expected: &str) {
    let plan = plan(&wish(wished), &seen(replicas), None, NOW);
    let words = |condition: &Condition| format!("{:?} {:?}", condition.truth, condition.reason);
    let all: Vec<_> = plan.conditions.iter().take(3).map(words).collect();
    assert_eq!(all.join(", "), expected, "{fact}");
}

#[test]
fn faults_of_weights() {
    use WeightsFault::{Corrupt, Missing, NoSpace, Unauthorized, Unreachable};
    for (fault, reason) in [
        (Missing, "WeightsMissing"),
        (Unauthorized, "WeightsUnauthorized"),
        (Unreachable, "WeightsUnreachable"),
        (Corrupt, "WeightsCorrupt"),
        (NoSpace, "DiskFull"),
    ] {
        let failure = WorkerFailure::Weights(fault, "its words".into());
        let phase = Phase::Stopped { at: NOW, failure };
        let stopped = Replica { phase, has_served: false, failures: Failures(1), ..ready(0) };
        let all = format!("False {reason}, False {reason}, False {reason}");
        check_status("a fault of weights", 1, [stopped], &all);
    }
}

#[test]
fn how_far_a_fetch_is() {
    #[track_caller]
    fn check(fact: &str, done: u64, total: Option<u64>, words: &str) {
        let phase = Phase::Fetching { done: Bytes(done), total: total.map(Bytes) };
        let fetching = Replica { phase, has_served: false, ..ready(0) };
        let plan = plan(&wish(1), &seen([fetching]), None, NOW);
        let of = |kind| plan.conditions.iter().find(|condition| condition.kind == kind).unwrap();
        let weights = &of(ConditionKind::WeightsAvailable).message;
        assert_eq!(*weights, format!("weights are on their way{words}"), "{fact}");
        let ready = &of(ConditionKind::Ready).message;
        assert!(ready.ends_with(&format!("replica 0 is fetching weights{words}")), "{ready}");
    }
    check("nothing yet", 0, None, "");
    check("a part of what is known", 42_500_000, Some(98_300_000), ": 43 % of 98 MB");
    check("more than all", 5, Some(4), ": 100 % of 1 kB");
    check("nobody knows how much", 12_000_000_000, None, ": 12 GB");
    check("much", 0, Some(140_000_000_000), ": 0 % of 140 GB");
}

/// A replica that has never answered, and ended so.
fn refused(failure: WorkerFailure) -> Replica {
    let phase = Phase::Stopped { at: NOW, failure };
    Replica { phase, has_served: false, failures: Failures(1), ..ready(0) }
}

#[test]
fn workers_that_cannot_begin() {
    check_status(
        "a refusal",
        1,
        [refused(WorkerFailure::Config("unknown architecture \"x\"".into()))],
        "False ConfigRefused, False ConfigRefused, Unknown Fetching",
    );
    check_status(
        "no accelerator",
        1,
        [refused(WorkerFailure::NoUsableGpu("no usable GPU: no driver".into()))],
        "False NoUsableGpu, False NoUsableGpu, Unknown Fetching",
    );
}

#[test]
fn conditions() {
    let fetching = Replica {
        phase: Phase::Fetching { done: Bytes(1), total: None },
        has_served: false,
        ..ready(0)
    };
    let no_file = refused(WorkerFailure::Weights(WeightsFault::Missing, "no such file".into()));
    check_status("all is well", 1, [ready(0)], "True Serving, True Serving, True WeightsLoaded");
    check_status(
        "nothing is wished",
        0,
        [],
        "False ScaledToZero, False ScaledToZero, Unknown ScaledToZero",
    );
    check_status("a start", 1, [], "False Starting, False Starting, Unknown Fetching");
    check_status("a fetch", 1, [fetching], "False Fetching, False Fetching, Unknown Fetching");
    check_status("a load", 1, [loading(0)], "False Loading, False Loading, True WeightsLoaded");
    check_status(
        "no weights",
        1,
        [no_file],
        "False WeightsMissing, False WeightsMissing, False WeightsMissing",
    );
    check_status(
        "a crash",
        2,
        [ready(0), crashed(1, 1, 0)],
        "False BackingOff, False BackingOff, True WeightsLoaded",
    );
    let killed = refused(WorkerFailure::OutOfMemory("killed".into()));
    check_status(
        "too little memory",
        1,
        [killed],
        "False OutOfMemoryKilled, False OutOfMemoryKilled, Unknown Fetching",
    );
    check_status(
        "no room",
        1,
        [no_room(0)],
        "False Unschedulable, False Unschedulable, Unknown Fetching",
    );
    check_status(
        "no room for a successor",
        1,
        [old(ready(0)), no_room(1)],
        "True Unschedulable, False Unschedulable, Unknown Fetching",
    );
    check_status(
        "about to be placed",
        1,
        [pending(0, PendingReason::Placing)],
        "False Starting, False Starting, Unknown Fetching",
    );
    check_status(
        "an exchange",
        1,
        [old(ready(0)), silent(1, 0)],
        "True Replacing, False Starting, Unknown Fetching",
    );
}
