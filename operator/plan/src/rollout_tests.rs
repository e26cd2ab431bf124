use super::*;
use crate::replicas::tests::*;
use crate::*;

fn in_place(max_unavailable: u32) -> Rollout {
    let max_unavailable = NonZeroU32::new(max_unavailable).unwrap();
    Rollout { strategy: Strategy::InPlace { max_unavailable }, ..Rollout::default() }
}

fn surge(max_surge: u32, max_unavailable: u32) -> Rollout {
    let max_surge = NonZeroU32::new(max_surge).unwrap();
    Rollout { strategy: Strategy::Surge { max_surge, max_unavailable }, ..Rollout::default() }
}

fn canary(rollout: Rollout, seconds: u64) -> Rollout {
    Rollout { canary: Millis::from_seconds(seconds), ..rollout }
}

fn ready_for(id: u32, seconds: u64) -> Replica {
    Replica { ready_since: Some(Moment(NOW.0 - seconds * 1000)), ..ready(id) }
}

fn broken(id: u32, failures: u32) -> Replica {
    Replica { has_served: false, ..crashed(id, failures, 0) }
}

fn planned(rollout: Rollout, wished: u32, replicas: impl Into<Vec<Replica>>) -> Plan {
    plan(&Desired { rollout, ..wish(wished) }, &seen(replicas), None, NOW)
}

#[track_caller]
fn check(
    fact: &str,
    rollout: Rollout,
    wished: u32,
    replicas: impl Into<Vec<Replica>>,
    expected: &str,
) {
    assert_eq!(story(&planned(rollout, wished, replicas)), expected, "{fact}");
}

#[track_caller]
fn says(
    fact: &str,
    rollout: Rollout,
    wished: u32,
    replicas: impl Into<Vec<Replica>>,
    expected: &str,
) {
    let plan = planned(rollout, wished, replicas);
    let condition = plan.conditions.iter().find(|c| c.kind == ConditionKind::RolledOut).unwrap();
    let said = format!("{:?} {:?}: {}", condition.truth, condition.reason, condition.message);
    assert_eq!(said, expected, "{fact}");
}

#[test]
fn in_place_exchanges() {
    let one = in_place(1);
    check("the old one goes first", one, 1, [old(ready(0))], "-0");
    check("its devices are not free while it drains", one, 1, [draining(old(ready(0)), 1)], "");
    check("then its successor comes", one, 1, [], "+0");
    check(
        "as many go as may",
        in_place(2),
        3,
        [old(ready(0)), old(ready(1)), old(ready(2))],
        "-1 -2",
    );
    check(
        "one that is down counts among them",
        one,
        2,
        [old(ready(0)), old(crashed(1, 1, 0))],
        "x1",
    );
    check("the next waits for the first", one, 2, [old(ready(0)), loading(1)], "");
    check("and goes when that is ready", one, 2, [old(ready(0)), ready(1)], "-0");
    check("a successor that fails ends no other", one, 2, [old(ready(0)), broken(1, 9)], "");
    check("nor does a cleared place ask for more", one, 1, [displaced(ready(0))], "-0");
}

#[test]
fn surges() {
    let two = [old(ready(0)), old(ready(1)), old(ready(2))];
    check("as many as there is room for", surge(2, 0), 3, two.clone(), "+3 +4");
    check("some may be missed meanwhile", surge(1, 1), 3, two, "-2 +3 +4");
    check("but never the last", surge(1, 5), 1, [old(ready(0))], "+1");
}

#[test]
fn canaries() {
    let minute = canary(surge(1, 0), 60);
    let two = [old(ready(0)), old(ready(1))];
    check("one is made first, also where more fit", canary(surge(2, 1), 60), 2, two.clone(), "+2");
    let with = |replica| [old(ready(0)), old(ready(1)), replica];
    check("the others serve on beside it", minute, 2, with(ready_for(2, 59)), "");
    check("until it has proven itself", minute, 2, with(ready_for(2, 60)), "-1 +3");
    let in_place = canary(in_place(2), 60);
    check("in place one goes", in_place, 2, two, "-1");
    check(
        "and no other while the first proves itself",
        in_place,
        2,
        [old(ready(0)), ready_for(2, 1)],
        "",
    );
    check("then the rest", in_place, 2, [old(ready(0)), ready_for(2, 60)], "-0");
    check("without older ones nobody is a canary", minute, 2, [], "+0 +1");

    let wait = |replica| {
        let desired = Desired { rollout: minute, ..wish(2) };
        plan(&desired, &seen(with(replica)), None, NOW).next_check
    };
    assert_eq!(wait(ready_for(2, 59)), NextCheck::In(Millis(1000)), "it is looked at again");
}

#[test]
fn broken_templates() {
    let more = surge(2, 1);
    let old_ones = [old(ready(0)), old(ready(1)), old(ready(2))];
    let with = |replica| old_ones.iter().cloned().chain([replica]).collect::<Vec<_>>();
    check("one failure may pass", more, 3, with(broken(3, 2)), "-2 +4 +5");
    check("the third ends the exchange", more, 3, with(broken(3, 3)), "");
    check("or a long silence", more, 3, with(Replica { created: Moment(0), ..no_room(3) }), "");
    let fetching = Replica {
        phase: Phase::Fetching { done: Bytes(1), total: None },
        ..Replica { created: Moment(0), ..loading(3) }
    };
    check("not a long fetch", more, 3, with(fetching), "-2 +4 +5");
    let back = |id| Replica { revision: old_revision(), ..broken(id, 3) };
    check(
        "the earlier spec again: the broken one goes at once",
        more,
        2,
        [ready(0), ready(1), back(3)],
        "x3",
    );
    let desired = Desired { rollout: more, ..wish(3) };
    let young = Replica { created: Moment(NOW.0 - 599_000), ..no_room(3) };
    let next = plan(&desired, &seen(with(young)), None, NOW).next_check;
    assert_eq!(next, NextCheck::In(Millis(1000)), "the deadline is looked at");
}

#[test]
fn progress() {
    let plain = surge(1, 0);
    says("done", plain, 1, [ready(0)], "True RolledOut: every replica is of the present template");
    says(
        "a crash undoes nothing",
        plain,
        1,
        [crashed(0, 1, 0)],
        "True RolledOut: every replica is of the present template",
    );
    says(
        "nothing wished",
        plain,
        0,
        [],
        "True RolledOut: every replica is of the present template",
    );
    says(
        "a beginning",
        plain,
        2,
        [loading(0)],
        "False RollingOut: 0 of 2 replicas are of the present template and answer; \
         0 of older ones do",
    );
    says(
        "half way",
        plain,
        2,
        [old(ready(0)), ready(1)],
        "False RollingOut: 1 of 2 replicas are of the present template and answer; \
         1 of older ones do",
    );
    says(
        "a canary",
        canary(plain, 60),
        2,
        [old(ready(0)), old(ready(1)), ready_for(2, 1)],
        "False CanaryServing: 1 of 2 replicas are of the present template and answer; \
         2 of older ones do; the first has to answer for 60 s before others follow",
    );
    says(
        "trouble",
        plain,
        1,
        [old(ready(0)), broken(1, 3)],
        "False RolloutStopped: 0 of 1 replicas are of the present template and answer; \
         1 of older ones do; replica 1 does not become ready: 0 of 1 replicas answer; replica 1 \
         ended 3 times and is started again after a wait: signal 9",
    );
}
