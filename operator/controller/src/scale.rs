//! How many replicas are wished where naru chooses that itself: the load in, a number out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use naru_api::{DECISIONS_KEPT, ScalingDecision};
use naru_plan::scaling::{self, ScalingChange, ScalingState};
use naru_plan::{Condition, Desired, Moment, NextCheck, Observed, ReplicaCount};

use crate::world::World;

/// What is remembered of one deployment between two passes.
#[derive(Clone, Debug)]
pub(crate) struct Scaled {
    state: ScalingState,
    /// The last changes, the newest last.
    pub(crate) history: Vec<ScalingDecision>,
}

impl Scaled {
    /// The number of replicas that was chosen last.
    pub(crate) fn wished(&self) -> ReplicaCount {
        self.state.wished
    }
}

/// What a pass goes by.
pub(crate) struct Scale {
    /// The wish, with the number of replicas that was decided.
    pub(crate) desired: Desired,
    /// What to remember.
    pub(crate) scaled: Scaled,
    /// What to say of it.
    pub(crate) condition: Condition,
    /// When to decide again though the load stays.
    pub(crate) next_check: NextCheck,
}

/// Decides for one deployment; `None`: the number is somebody else's to choose.
pub(crate) fn scale<W: World>(
    world: &W,
    desired: &Desired,
    observed: &Observed,
    scaled: Option<&Scaled>,
) -> Option<Scale> {
    let wish = desired.scaling.as_ref()?;
    let load = world.load(desired)?;
    let now = world.now();
    let Scaled { state, mut history } =
        scaled.cloned().unwrap_or_else(|| resume(world.scaling_history(&desired.name), observed));
    let verdict = scaling::decide(wish, &state, &load, now);
    let condition = scaling::condition(wish, &verdict, now);
    if let Some(change) = verdict.change {
        let deployment = desired.name.to_string();
        let (from, to, reason) = (change.from.0, change.to.0, format!("{:?}", change.reason));
        tracing::info!(deployment, from, to, reason, "scaling: {}", change.message);
        history.push(decision(change, now));
        history.drain(..history.len().saturating_sub(DECISIONS_KEPT));
    }
    let desired = Desired { replicas: verdict.state.wished, ..desired.clone() };
    let scaled = Scaled { state: verdict.state, history };
    Some(Scale { desired, scaled, condition, next_check: verdict.next_check })
}

/// A new leader goes on from the last decision that was reported, else from what there is.
fn resume(history: Vec<ScalingDecision>, observed: &Observed) -> Scaled {
    let staying = observed.replicas.iter().filter(|replica| replica.drain_since.is_none());
    let there = u32::try_from(staying.count()).unwrap_or(u32::MAX);
    let wished = history.last().map_or(there, |last| last.to);
    Scaled { state: ScalingState::resume(ReplicaCount(wished)), history }
}

fn decision(change: ScalingChange, now: Moment) -> ScalingDecision {
    let ScalingChange { from, to, reason, message } = change;
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
    let time = Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX));
    ScalingDecision { time, from: from.0, to: to.0, reason: format!("{reason:?}"), message }
}
