//! What is told to people who watch a model deployment: `kubectl describe md` shows it. Pure but
//! for the recorder.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as Written, OwnerReference};
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use naru_plan::{
    Action, Condition, ConditionKind, Observed, Phase, Reason, Replica, Truth, WorkerFailure,
};

use super::labels;
use crate::world::Decision;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) is_warning: bool,
    pub(super) reason: String,
    pub(super) note: String,
}

/// What is worth telling of a decision: of what was done of it, and of the trouble it found.
/// `before` are the conditions as they stood until now.
pub(super) fn news(decision: &Decision, done: &[Action], before: &[Written]) -> Vec<News> {
    let mut news = Vec::new();
    let mut say = |is_warning, reason: &str, note: String| {
        news.push(News { is_warning, reason: reason.to_owned(), note });
    };
    let Decision { desired, observed, plan, .. } = decision;
    let staying = observed.replicas.iter().filter(|replica| replica.drain_since.is_none());
    let revision = desired.template.revision();
    let (current, outdated): (Vec<_>, Vec<_>) =
        staying.partition(|replica| replica.revision == revision && !replica.displaced);
    let creates = |action: &&Action| matches!(action, Action::Create(_));
    let created = done.iter().filter(creates).count();
    let (there, wished) = (current.len(), desired.replicas.0 as usize);
    let begins = created > 0 && there == 0;
    if begins && outdated.iter().any(|replica| replica.revision != revision) {
        let note = format!("replicas of template {revision} take over one after another");
        say(false, "RolloutStarted", note);
    } else if outdated.is_empty() && is_scaled(there, created, wished, done) {
        say(false, "Scaled", format!("from {there} to {wished} replicas"));
    }
    for action in done {
        let find = |id| observed.replicas.iter().find(|replica| replica.id == id);
        match *action {
            Action::Remove(id) => {
                if let Some(replica) = find(id).filter(|replica| has_drained(replica)) {
                    let name = labels::replica_name(&desired.name, replica.id);
                    say(false, "Drained", format!("{name} finished what it was answering"));
                }
            }
            Action::Restart(id) => {
                // What ends on a node that is there, the kubelet starts again.
                let phase = find(id).map(|replica| &replica.phase);
                if let Some(Phase::Stopped { failure: WorkerFailure::NodeLost(words), .. }) = phase
                {
                    let name = labels::replica_name(&desired.name, id);
                    say(true, "Restarted", format!("{name} is started elsewhere: {words}"));
                }
            }
            Action::Create(_) | Action::Drain(_) => {}
        }
    }
    for condition in plan.conditions.iter().filter(|condition| is_trouble(condition)) {
        let (kind, reason) = (format!("{:?}", condition.kind), format!("{:?}", condition.reason));
        let stood = before.iter().find(|before| before.type_ == kind);
        let lost = lost(observed).filter(|_| condition.reason == Reason::RankFailed);
        // Another rank may be lost before the first is back.
        let who = lost.as_deref().and_then(|lost| lost.split_once("): ")).map(|(who, _)| who);
        let is_told = |stood: &Written| {
            stood.reason == reason && who.is_none_or(|who| stood.message.contains(who))
        };
        if !stood.is_some_and(is_told) {
            say(true, &reason, lost.unwrap_or_else(|| condition.message.clone()));
        }
    }
    news
}

/// Which rank was lost, before all else: events that begin alike are counted as one.
fn lost(observed: &Observed) -> Option<String> {
    observed.replicas.iter().find_map(|replica| match &replica.phase {
        Phase::Apart { lost: Some(lost) }
        | Phase::Stopped { failure: WorkerFailure::Rank(lost), .. } => {
            Some(format!("{lost}; the other ranks of replica {} wait for it", replica.id))
        }
        _ => None,
    })
}

/// A group of members of which not all found a node.
pub(super) fn withdrawn(set: &str) -> News {
    let note = format!(
        "not all members of {set} found a node in time: none keeps one until all can have one"
    );
    News { is_warning: true, reason: "GroupWithdrawn".to_owned(), note }
}

/// Whether the number of replicas is changed, to the wished one.
fn is_scaled(there: usize, created: usize, wished: usize, done: &[Action]) -> bool {
    (created > 0 && created + there == wished) || (there > wished && !done.is_empty())
}

fn has_drained(replica: &Replica) -> bool {
    // The present moment and the epoch stand for replicas that others deleted.
    replica.drain_since.is_some_and(|since| since.0 > 0)
        && matches!(replica.phase, Phase::Stopped { .. })
}

/// Whether somebody may have to do something about it.
fn is_trouble(condition: &Condition) -> bool {
    if condition.kind != ConditionKind::Ready {
        return condition.reason == Reason::RolloutStopped;
    }
    let patience = [
        Reason::Starting,
        Reason::Fetching,
        Reason::Loading,
        Reason::Replacing,
        Reason::ScaledToZero,
        Reason::Serving,
        Reason::WeightsLoaded,
    ];
    condition.truth != Truth::True && !patience.contains(&condition.reason)
}

/// Tells the cluster.
#[derive(Clone)]
pub(super) struct Teller(Recorder);

impl Teller {
    pub(super) fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: "naru.dev/operator".to_owned(), instance };
        Self(Recorder::new(client, reporter))
    }

    /// Publishes in the background: events are for people, and nothing waits for them.
    pub(super) fn tell(&self, namespace: &str, owner: &OwnerReference, news: Vec<News>) {
        if news.is_empty() {
            return;
        }
        let about = ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(owner.uid.clone()),
            ..ObjectReference::default()
        };
        let recorder = self.0.clone();
        tokio::spawn(async move {
            for News { is_warning, reason, note } in news {
                let type_ = if is_warning { EventType::Warning } else { EventType::Normal };
                // Events with equal actions are counted as one, under the note of the first.
                let action = note.chars().take(ACTION_CHARACTERS_MAX).collect();
                let note = Some(note.chars().take(NOTE_CHARACTERS_MAX).collect());
                let event = Event { type_, reason, note, action, secondary: None };
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::warn!(%error, "an event could not be told");
                }
            }
        });
    }
}

/// The API server takes a kilobyte of note and 128 characters of action.
const NOTE_CHARACTERS_MAX: usize = 250;
const ACTION_CHARACTERS_MAX: usize = 30;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use naru_api::{Source, check};
    use naru_plan::{Failures, Moment, ReplicaId, Revision, WeightsFault, plan};

    use super::*;

    const NOW: Moment = Moment(1_000_000);

    fn decision(replicas: u32, observed: &[(u32, Phase, bool, bool)]) -> Decision {
        let text = format!(
            "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: solar}}\n\
             spec: {{model: {{uri: file:///m.gguf}}, replicas: {replicas}}}\n"
        );
        let file = "a.yaml";
        let mut wishes = check(&[Source { file, text: &text }]).unwrap();
        let desired = wishes.deployments.remove(0);
        let revision = desired.template.revision();
        let replica = |(id, phase, is_old, drains): &(u32, Phase, bool, bool)| Replica {
            id: ReplicaId(*id),
            revision: if *is_old { Revision(1) } else { revision },
            phase: phase.clone(),
            drain_since: drains.then_some(Moment(1)),
            has_served: true,
            failures: Failures(0),
            created: Moment(0),
            ready_since: None,
            displaced: false,
        };
        let replicas = observed.iter().map(replica).collect();
        let observed = Observed { replicas, memory_free: None };
        let plan = plan(&desired, &observed, None, NOW);
        Decision { desired: Arc::new(desired), observed, plan, scaling: Vec::new(), power: None }
    }

    fn stood(reason: &str) -> Written {
        Written {
            type_: "Ready".into(),
            status: "False".into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    #[track_caller]
    fn says(fact: &str, replicas: u32, observed: &[(u32, Phase, bool, bool)], expected: &[&str]) {
        let news = {
            let decision = decision(replicas, observed);
            news(&decision, &decision.plan.actions, &[stood("Starting")])
        };
        let said: Vec<_> = news.iter().map(|n| format!("{}: {}", n.reason, n.note)).collect();
        assert_eq!(said, expected, "{fact}");
    }

    #[test]
    fn what_is_told() {
        use Phase::Ready;
        let gone = |failure| Phase::Stopped { at: NOW, failure };
        let ended = gone(WorkerFailure::Ended("exit code 0".into()));
        let lost = gone(WorkerFailure::NodeLost("node node1 does not answer".into()));
        says("nothing new", 1, &[(0, Ready, false, false)], &[]);
        says("a beginning", 2, &[], &["Scaled: from 0 to 2 replicas"]);
        says("more", 3, &[(0, Ready, false, false)], &["Scaled: from 1 to 3 replicas"]);
        let two = [(0, Ready, false, false), (1, Ready, false, false)];
        says("fewer", 1, &two, &["Scaled: from 2 to 1 replicas"]);
        let drained = [(0, Ready, false, false), (1, ended, false, true)];
        says("one has drained", 1, &drained, &["Drained: solar-1 finished what it was answering"]);
        let revision = decision(1, &[]).desired.template.revision();
        let rollout =
            format!("RolloutStarted: replicas of template {revision} take over one after another");
        says("another template", 1, &[(0, Ready, true, false)], &[&rollout]);
        says(
            "a lost node",
            1,
            &[(0, lost, false, false)],
            &[
                "Restarted: solar-0 is started elsewhere: node node1 does not answer",
                "NodeLost: 0 of 1 replicas answer; replica 0 is started elsewhere: node node1 does \
                 not answer",
            ],
        );
    }

    #[test]
    fn a_lost_rank_is_told_first() {
        let lost = "rank 1 (pod solar-0-1 on node a): the worker ended with exit code 137";
        let apart = Phase::Apart { lost: Some(lost.to_owned()) };
        let told = format!("RankFailed: {lost}; the other ranks of replica 0 wait for it");
        says("its name begins the note", 1, &[(0, apart.clone(), false, false)], &[&told]);
        let decision = decision(1, &[(0, apart, false, false)]);
        let stood = |message: &str| Written { message: message.into(), ..stood("RankFailed") };
        let count = |before: Written| news(&decision, &[], &[before]).len();
        assert_eq!(count(stood(&format!("replica 0 lost {lost}"))), 0, "it is told once");
        assert_eq!(count(stood("replica 0 lost rank 2 (pod b): cut")), 1, "another one is told");
    }

    #[test]
    fn a_rollout_that_stops_is_told() {
        let failure = WorkerFailure::Ended("exit code 1".into());
        let broken = Phase::Stopped { at: NOW, failure };
        let mut decision =
            decision(1, &[(0, Phase::Ready, true, false), (1, broken, false, false)]);
        decision.observed.replicas[1].failures = Failures(3);
        decision.plan = plan(&decision.desired, &decision.observed, None, NOW);
        let reasons = |before| news(&decision, &[], before).into_iter().map(|n| n.reason);
        assert_eq!(reasons(&[]).collect::<Vec<_>>(), ["RolloutStopped"]);
    }

    #[test]
    fn trouble_is_told_once() {
        let failure = WorkerFailure::Weights(WeightsFault::Missing, "no such file".into());
        let phase = Phase::Stopped { at: Moment(NOW.0 - 1), failure };
        let decision = decision(1, &[(0, phase, false, false)]);
        assert_eq!(news(&decision, &[], &[stood("Loading")]).len(), 1);
        assert_eq!(news(&decision, &[], &[stood("WeightsMissing")]), []);
    }
}
