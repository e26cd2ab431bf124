//! The status of a model deployment, from what was seen and what the plan says. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use naru_api::{Enforcement, ModelDeploymentStatus, PowerStatus, ScalingDecision, advised};
use naru_plan::{
    ConditionKind, DeploymentName, Moment, Observed, Phase, Reason, Revision, Truth, Watts,
};

use super::cluster::Refusal;
use super::{labels, observe};

/// What a status is made of.
pub(super) struct Report<'a> {
    pub(super) name: &'a DeploymentName,
    pub(super) generation: Option<i64>,
    /// Of the present template; `None`: it has no meaning.
    pub(super) revision: Option<Revision>,
    pub(super) conditions: &'a [naru_plan::Condition],
    pub(super) observed: &'a Observed,
    pub(super) scaling: &'a [ScalingDecision],
    /// What its replicas are charged; `None`: it draws from no budget.
    pub(super) charged: Option<Watts>,
    /// The status that stands there: times of what did not change are kept.
    pub(super) live: &'a ModelDeploymentStatus,
}

/// The whole status.
pub(super) fn status(report: &Report<'_>) -> ModelDeploymentStatus {
    let replicas = &report.observed.replicas;
    let answers = |phase: &Phase| matches!(phase, Phase::Ready);
    let ready = replicas.iter().filter(|r| answers(&r.phase) && r.drain_since.is_none());
    let updated = replicas.iter().filter(|r| Some(r.revision) == report.revision);
    let conditions = report.conditions.iter().map(|condition| {
        let naru_plan::Condition { kind, truth, reason, ref message, since } = *condition;
        self::condition(report, kind, truth, (reason, message), since)
    });
    ModelDeploymentStatus {
        observed_generation: report.generation,
        replicas: count(replicas.len()),
        ready_replicas: count(ready.count()),
        updated_replicas: count(updated.filter(|r| r.drain_since.is_none()).count()),
        selector: labels::selector(report.name),
        scaling: report.scaling.to_vec(),
        power: report.charged.map(|Watts(charged_watts)| PowerStatus {
            charged_watts,
            enforcement: Enforcement::Advisory,
        }),
        conditions: conditions.collect(),
    }
}

/// The status of a deployment that is not served: why, and nothing that was true before.
pub(super) fn refused(
    refusal: &Refusal,
    report: &Report<'_>,
    now: Moment,
) -> ModelDeploymentStatus {
    let conditions = [ConditionKind::Ready, ConditionKind::WorkersReady]
        .map(|kind| condition(report, kind, Truth::False, (refusal.reason, &refusal.message), now));
    ModelDeploymentStatus { conditions: conditions.into(), ..status(report) }
}

/// What one condition says.
pub(super) struct Said<'a> {
    pub(super) kind: &'a str,
    pub(super) truth: Truth,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Said<'_> {
    /// As it is written; the time moves only when the truth flips. `before` is what stands there.
    pub(super) fn condition(
        self,
        before: &[Condition],
        generation: Option<i64>,
        since: Moment,
    ) -> Condition {
        let truth = format!("{:?}", self.truth);
        let before = before.iter().find(|before| before.type_ == self.kind);
        let same = before.filter(|before| before.status == truth);
        // Whole seconds: that is all that is kept of it.
        let seconds = Moment(since.0 / 1000 * 1000);
        let time = same.map_or_else(
            || Time(observe::time(seconds)),
            |before| before.last_transition_time.clone(),
        );
        Condition {
            type_: self.kind.to_owned(),
            status: truth,
            reason: format!("{:?}", self.reason),
            message: self.message,
            observed_generation: generation,
            last_transition_time: time,
        }
    }
}

/// One condition of a model deployment, with what to try next.
fn condition(
    report: &Report<'_>,
    kind: ConditionKind,
    truth: Truth,
    (reason, message): (Reason, &str),
    since: Moment,
) -> Condition {
    let (kind, message) = (format!("{kind:?}"), advised(reason, message, report.name));
    let said = Said { kind: &kind, truth, reason, message };
    said.condition(&report.live.conditions, report.generation, since)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use naru_plan::{Failures, PendingReason, Replica, ReplicaId};

    use super::*;

    fn replica(phase: Phase, drains: bool) -> Replica {
        Replica {
            id: ReplicaId(0),
            revision: Revision(1),
            phase,
            drain_since: drains.then_some(Moment(1)),
            has_served: true,
            failures: Failures(0),
            created: Moment(0),
            ready_since: None,
            displaced: false,
        }
    }

    fn ready(truth: Truth, since: u64) -> naru_plan::Condition {
        let (kind, reason) = (ConditionKind::Ready, Reason::Serving);
        naru_plan::Condition { kind, truth, reason, message: "m".into(), since: Moment(since) }
    }

    #[track_caller]
    fn of(
        conditions: &[naru_plan::Condition],
        observed: &Observed,
        live: &ModelDeploymentStatus,
    ) -> ModelDeploymentStatus {
        let name = DeploymentName::parse("serving", "solar").unwrap();
        status(&Report {
            name: &name,
            generation: Some(4),
            revision: Some(Revision(1)),
            conditions,
            observed,
            scaling: &[],
            charged: None,
            live,
        })
    }

    #[test]
    fn counts() {
        let observed = Observed {
            replicas: vec![
                replica(Phase::Ready, false),
                replica(Phase::Ready, true),
                replica(Phase::Pending { why: PendingReason::Placing }, false),
            ],
            memory_free: None,
        };
        let status = of(&[], &observed, &ModelDeploymentStatus::default());
        let counted = (status.replicas, status.ready_replicas, status.updated_replicas);
        assert_eq!(counted, (3, 1, 2), "one drains, one comes");
        assert_eq!(
            status.selector,
            "naru.dev/model-deployment=solar,apps.kubernetes.io/pod-index=0"
        );
        assert_eq!(status.observed_generation, Some(4));
    }

    #[test]
    fn times() {
        let nothing = Observed::default();
        let of =
            |truth, since, live: &ModelDeploymentStatus| of(&[ready(truth, since)], &nothing, live);
        let first = of(Truth::False, 5_500, &ModelDeploymentStatus::default());
        let time = |status: &ModelDeploymentStatus| {
            observe::moment(&status.conditions[0].last_transition_time)
        };
        assert_eq!(time(&first), Moment(5_000), "whole seconds");
        let later = of(Truth::False, 9_000, &first);
        assert_eq!(later, first, "the same again is the same, to the last field");
        assert_eq!(time(&of(Truth::True, 9_000, &first)), Moment(9_000), "a flip has its time");
        let text = serde_json::to_value(&first).unwrap();
        let back: ModelDeploymentStatus = serde_json::from_value(text).unwrap();
        assert_eq!(of(Truth::False, 9_000, &back), back, "also as the API server gives it back");
    }

    #[test]
    fn refusals() {
        let name = DeploymentName::parse("serving", "solar").unwrap();
        let (observed, live) = (Observed::default(), ModelDeploymentStatus::default());
        let (generation, conditions) = (Some(4), &[]);
        let report = Report {
            name: &name,
            generation,
            revision: None,
            conditions,
            observed: &observed,
            scaling: &[],
            charged: None,
            live: &live,
        };
        let refusal = Refusal { reason: Reason::NameTaken, message: "taken".into() };
        let status = refused(&refusal, &report, Moment(1_000));
        let said: Vec<_> = status
            .conditions
            .iter()
            .map(|c| format!("{} {} {} {}", c.type_, c.status, c.reason, c.message))
            .collect();
        assert!(said[0].starts_with("Ready False NameTaken taken; try: kubectl get "), "{said:?}");
        assert!(said[1].starts_with("WorkersReady False NameTaken taken; try: "), "{said:?}");
    }
}
