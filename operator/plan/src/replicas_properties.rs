//! What holds of every plan, whatever is wished and seen.

use std::num::NonZeroU32;

use proptest::prelude::{
    Just, any, prop, prop_assert, prop_assert_eq, prop_compose, prop_oneof, proptest,
};
use proptest::strategy::Strategy as _;

use super::tests::*;
use super::*;
use crate::*;

fn phases() -> impl proptest::strategy::Strategy<Value = Phase> {
    let failure = WorkerFailure::Ended("signal 9".into());
    prop_oneof![
        Just(Phase::Pending { why: PendingReason::Unschedulable("no room".into()) }),
        (0_u64..40).prop_map(|s| Phase::Silent { since: Moment(NOW.0 - s * 1000) }),
        Just(Phase::Fetching { done: Bytes(0), total: None }),
        Just(Phase::Loading),
        Just(Phase::Ready),
        (0_u64..40).prop_map(move |s| Phase::Stopped {
            at: Moment(NOW.0 - s * 1000),
            failure: failure.clone()
        }),
    ]
}

prop_compose! {
    fn replica()(
        is_new in any::<bool>(), phase in phases(), drained in any::<bool>(),
        has_served in any::<bool>(), failures in 0_u32..12, displaced in any::<bool>(),
    ) -> Replica {
        let has_served = has_served || phase == Phase::Ready;
        let drain_since = drained.then_some(Moment(NOW.0 - 1000));
        let revision = if is_new { new_template().revision() } else { old_revision() };
        let failures = Failures(failures);
        let created = Moment(NOW.0 - 1_000_000);
        let ready_since = (phase == Phase::Ready).then_some(Moment(NOW.0 - 100_000));
        let id = ReplicaId(0);
        Replica {
            id, revision, phase, created, ready_since, drain_since, has_served, failures, displaced,
        }
    }
}

prop_compose! {
    fn fleets()(mut replicas in prop::collection::vec(replica(), 0..7)) -> Vec<Replica> {
        for (id, replica) in (0..).zip(&mut replicas) {
            replica.id = ReplicaId(id);
        }
        replicas
    }
}

fn answering(replicas: &[Replica]) -> usize {
    replicas.iter().filter(|replica| is_ready(replica) && replica.drain_since.is_none()).count()
}

/// Carries a plan out the way a world would.
fn apply(replicas: &mut Vec<Replica>, actions: &[Action], now: Moment) {
    for action in actions {
        match *action {
            Action::Create(id) => {
                assert!(replicas.iter().all(|replica| replica.id != id), "{id} exists already");
                replicas.push(Replica { created: now, ..loading(id.0) });
            }
            Action::Remove(id) => replicas.retain(|replica| replica.id != id),
            Action::Drain(id) => find(replicas, id).drain_since = Some(now),
            Action::Restart(id) => {
                let replica = find(replicas, id);
                (replica.phase, replica.ready_since) = (Phase::Loading, None);
            }
        }
    }
}

fn find(replicas: &mut [Replica], id: ReplicaId) -> &mut Replica {
    replicas.iter_mut().find(|replica| replica.id == id).expect("actions name what exists")
}

fn is_on_its_way(phase: &Phase) -> bool {
    matches!(phase, Phase::Loading | Phase::Fetching { .. } | Phase::Pending { .. })
}

/// Lets time pass: what loads becomes ready, what drains stops.
fn settle(replicas: &mut [Replica], now: Moment) {
    for replica in replicas {
        if replica.drain_since.is_some() {
            let failure = WorkerFailure::Ended("exit code 0".into());
            replica.phase = Phase::Stopped { at: now, failure };
            replica.ready_since = None;
        } else if is_on_its_way(&replica.phase) {
            replica.phase = Phase::Ready;
            replica.ready_since = Some(now);
            replica.has_served = true;
        }
    }
}

prop_compose! {
    fn rollouts()(
        in_place in any::<bool>(), surge in 1_u32..4, unavailable in 0_u32..4, canary in 0_u64..200,
    ) -> Rollout {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let strategy = if in_place {
            Strategy::InPlace { max_unavailable: number(unavailable) }
        } else {
            Strategy::Surge { max_surge: number(surge), max_unavailable: unavailable }
        };
        let canary = Millis::from_seconds(canary);
        Rollout { strategy, canary, ..Rollout::default() }
    }
}

prop_compose! {
    fn wishes()(replicas in 0_u32..5, rollout in rollouts()) -> Desired {
        Desired { rollout, ..wish(replicas) }
    }
}

/// How many have to answer after a plan, if so many did before it.
fn answering_min(desired: &Desired, before: usize) -> usize {
    let wished = desired.replicas.0 as usize;
    before.min(wished - desired.rollout.strategy.unavailable(wished))
}

proptest! {
    #[test]
    fn as_many_answer_after_a_plan_as_before(replicas in fleets(), desired in wishes()) {
        let before = answering(&replicas);
        let actions = plan(&desired, &seen(replicas.clone()), None, NOW).actions;
        let mut after = replicas;
        apply(&mut after, &actions, NOW);
        prop_assert!(answering(&after) >= answering_min(&desired, before), "{actions:?}");
    }

    #[test]
    fn a_plan_never_overshoots(replicas in fleets(), desired in wishes()) {
        let actions = plan(&desired, &seen(replicas.clone()), None, NOW).actions;
        let creates = actions.iter().any(|action| matches!(action, Action::Create(_)));
        let mut after = replicas;
        apply(&mut after, &actions, NOW);
        let strategy = desired.rollout.strategy;
        let holds = |replica: &&Replica| {
            replica.drain_since.is_none() || strategy.waits_for_drains()
        };
        let there = after.iter().filter(holds).count();
        prop_assert!(!creates || there <= desired.replicas.0 as usize + strategy.surge());
    }

    #[test]
    fn plans_converge(mut replicas in fleets(), desired in wishes()) {
        let wished = desired.replicas.0 as usize;
        let mut now = NOW;
        for _ in 0..60 {
            let before = answering(&replicas);
            let actions = plan(&desired, &seen(replicas.clone()), None, now).actions;
            apply(&mut replicas, &actions, now);
            prop_assert!(answering(&replicas) >= answering_min(&desired, before));
            now = now.after(Millis::from_seconds(61));
            settle(&mut replicas, now);
        }
        let last = plan(&desired, &seen(replicas.clone()), None, now);
        prop_assert_eq!(last.actions, vec![]);
        prop_assert_eq!(last.next_check, NextCheck::OnChange);
        prop_assert_eq!(answering(&replicas), wished);
        prop_assert!(replicas.iter().all(|replica| replica.revision == new_template().revision()));
        prop_assert!(replicas.iter().all(|replica| !replica.displaced));
        let rolled_out = last.conditions.iter().find(|c| c.kind == ConditionKind::RolledOut);
        prop_assert_eq!(rolled_out.map(|condition| condition.truth), Some(Truth::True));
    }

    #[test]
    fn the_order_of_replicas_decides_nothing(mut replicas in fleets(), desired in wishes()) {
        let first = plan(&desired, &seen(replicas.clone()), None, NOW);
        replicas.reverse();
        prop_assert_eq!(first, plan(&desired, &seen(replicas), None, NOW));
    }

    /// Whatever a new template does that never becomes ready, older replicas are not given up.
    #[test]
    fn a_broken_template_takes_nothing_but_what_it_may(
        answering_old in 1_u32..5, rollout in rollouts(),
    ) {
        let desired = Desired { rollout, ..wish(answering_old) };
        let mut replicas: Vec<_> = (0..answering_old).map(|id| old(ready(id))).collect();
        let mut now = NOW;
        for _ in 0..40 {
            let actions = plan(&desired, &seen(replicas.clone()), None, now).actions;
            apply(&mut replicas, &actions, now);
            now = now.after(Millis::from_seconds(61));
            for replica in replicas.iter_mut().filter(|r| r.revision != old_revision()) {
                *replica = Replica { created: replica.created, ..crashed(replica.id.0, 1, 0) };
                replica.has_served = false;
                replica.failures = Failures(3);
            }
            replicas.retain(|replica| replica.drain_since.is_none());
            let least = answering_min(&desired, answering_old as usize);
            prop_assert!(answering(&replicas) >= least, "{replicas:?}");
        }
        let last = plan(&desired, &seen(replicas.clone()), None, now);
        let reason = last.conditions.iter().find(|c| c.kind == ConditionKind::RolledOut);
        let is_left = replicas.iter().any(|replica| replica.revision == old_revision());
        prop_assert!(!is_left || reason.is_some_and(|c| c.reason == Reason::RolloutStopped));
    }
}
