//! What a cluster is told about a model deployment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use naru_plan::scaling::ScalingChange;
use naru_plan::{DeploymentName, Moment, ReplicaCount};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::advice::advice;

/// Scaling decisions that a status keeps; the oldest goes first.
pub const DECISIONS_KEPT: usize = 5;

/// What is true of a model deployment.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelDeploymentStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that exist.
    pub replicas: u32,
    /// Replicas that answer requests.
    pub ready_replicas: u32,
    /// Labels of member 0 of each replica, as `key=value,…`; an HPA counts what they find.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The last five times naru chose another number of replicas, the newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scaling: Vec<ScalingDecision>,
    /// Ready, WorkersReady, WeightsAvailable, and with `scaling` ScalingActive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One time naru chose another number of replicas.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingDecision {
    /// When.
    pub time: Time,
    /// Replicas wished before.
    pub from: u32,
    /// Replicas wished since.
    pub to: u32,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

impl ModelDeploymentStatus {
    /// The number of replicas that was decided last: where a new leader goes on.
    pub fn wished(&self) -> Option<ReplicaCount> {
        self.scaling.last().map(|decision| ReplicaCount(decision.to))
    }
}

impl ScalingDecision {
    /// What a status keeps of a change; `now` counts milliseconds since 1970.
    pub fn new(change: &ScalingChange, now: Moment) -> Self {
        Self {
            time: time(now),
            from: change.from.0,
            to: change.to.0,
            reason: format!("{:?}", change.reason),
            message: change.message.clone(),
        }
    }

    /// Puts it behind `earlier` ones and forgets the oldest beyond [`DECISIONS_KEPT`].
    pub fn join(self, earlier: &[Self]) -> Vec<Self> {
        let kept = earlier.len().min(DECISIONS_KEPT - 1);
        let mut decisions = earlier[earlier.len() - kept..].to_vec();
        decisions.push(self);
        decisions
    }
}

/// A condition as a cluster keeps it, with the command to try next where something is amiss.
///
/// `since` of the condition counts milliseconds since 1970.
pub fn to_status_condition(
    condition: &naru_plan::Condition,
    name: &DeploymentName,
    generation: Option<i64>,
) -> Condition {
    let advice = advice(condition.reason);
    let is_amiss = !advice.remedy.is_empty();
    let command = advice.command_for(name).filter(|_| is_amiss);
    let message = match command {
        Some(command) => format!("{}; try: {command}", condition.message),
        None => condition.message.clone(),
    };
    Condition {
        type_: format!("{:?}", condition.kind),
        status: format!("{:?}", condition.truth),
        reason: format!("{:?}", condition.reason),
        message,
        last_transition_time: time(condition.since),
        observed_generation: generation,
    }
}

fn time(Moment(milliseconds): Moment) -> Time {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    Time(Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use naru_plan::{ConditionKind, Reason, Truth};

    use super::*;

    #[test]
    fn conditions_say_what_to_try() {
        let name = DeploymentName::parse("serving", "solar").unwrap();
        let condition = |reason, truth| {
            let message = "words".to_owned();
            let since = Moment(1_000);
            let kind = ConditionKind::Ready;
            let condition = naru_plan::Condition { kind, truth, reason, message, since };
            to_status_condition(&condition, &name, Some(3))
        };
        let lost = condition(Reason::NodeLost, Truth::False);
        assert_eq!(lost.message, "words; try: kubectl get nodes");
        assert_eq!((&*lost.type_, &*lost.status, &*lost.reason), ("Ready", "False", "NodeLost"));
        assert_eq!(lost.observed_generation, Some(3));
        assert_eq!(lost.last_transition_time.0.to_string(), "1970-01-01T00:00:01Z");
        assert_eq!(condition(Reason::Serving, Truth::True).message, "words");
    }

    #[test]
    fn five_decisions_are_kept() {
        let change = |to| ScalingChange {
            from: ReplicaCount(0),
            to: ReplicaCount(to),
            reason: naru_plan::scaling::ScalingReason::Woken,
            message: "words".into(),
        };
        let mut scaling = Vec::new();
        for to in 1..=7 {
            scaling = ScalingDecision::new(&change(to), Moment(to.into())).join(&scaling);
        }
        assert_eq!(scaling.iter().map(|d| d.to).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
        let status = ModelDeploymentStatus { scaling, ..Default::default() };
        assert_eq!(status.wished(), Some(ReplicaCount(7)));
        assert_eq!(ModelDeploymentStatus::default().wished(), None);
    }
}
