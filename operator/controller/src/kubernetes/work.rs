//! One decision as writes, carried out beside the loop: nothing is left to choose.

use std::time::Instant;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use naru_api::ModelDeploymentStatus;
use naru_plan::{Action, DeploymentName, Moment, ReplicaId};

use super::apply::{self, ApplyError};
use super::cluster::Seen;
use super::events::{self, Teller};
use super::gang::Order;
use super::labels;
use super::metrics::Metrics;
use super::spans::Span;
use crate::world::{Decision, Done, Outcome};

/// One thing to write.
pub(super) enum Write {
    Service(Box<Service>),
    Budget(Box<PodDisruptionBudget>),
    /// Made once, and then left alone.
    Claim(Box<PersistentVolumeClaim>),
    Set(Box<StatefulSet>),
    NoteDrain(ReplicaId, Moment),
    DeleteService(Box<Service>),
    DeleteBudget(Box<PodDisruptionBudget>),
    DeleteSet(Box<StatefulSet>),
    /// A pod on a node that is gone never ends by itself, and stands in the way of its successor.
    ForgetPod(Box<Pod>),
    Status(Box<ModelDeploymentStatus>),
}

/// One write, and the action of the plan that it carries out.
pub(super) struct Step {
    pub(super) write: Write,
    pub(super) action: Option<Action>,
}

/// Everything that one decision comes to, in order.
pub(super) struct Work {
    pub(super) decision: Decision,
    pub(super) owner: OwnerReference,
    pub(super) steps: Vec<Step>,
    /// The conditions as they stood until now.
    pub(super) before: Vec<Condition>,
}

/// How work is done.
pub(super) struct Tools {
    pub(super) client: Client,
    pub(super) teller: Teller,
    pub(super) metrics: Metrics,
}

/// What a write came to.
enum Wrote {
    /// There was nothing any more.
    Nothing,
    Done,
    /// This stands there now.
    Object(Box<Seen>),
}

impl Wrote {
    fn of<K>(answer: Option<K>, seen: fn(Event<K>) -> Seen) -> Self {
        answer.map_or(Self::Nothing, |object| Self::Object(Box::new(seen(Event::Apply(object)))))
    }
}

/// Work that is over.
pub(super) enum Ended {
    /// A decision, and what was written, as the API server answered it.
    Decision(Outcome<ApplyError>, Vec<Seen>),
    /// A refusal, that was reported or could not be.
    Refusal(DeploymentName, Result<(), ApplyError>),
    /// What was asked of a group's pods, by namespace and name of its StatefulSet: what was
    /// written, and what stopped it.
    Group((String, String), Vec<Seen>, Result<(), ApplyError>),
    /// The status of a power budget, as it stands there now, or why it could not be written.
    PowerBudget(String, Result<Option<Box<DynamicObject>>, ApplyError>),
}

/// Lets the pods of one group through, or deletes them.
pub(super) async fn place(
    client: &Client,
    (namespace, set): (&str, &str),
    order: Order,
    now: Moment,
    written: &mut Vec<Seen>,
) -> Result<(), ApplyError> {
    match order {
        Order::Lift(pods) => {
            tracing::info!(namespace, set, members = pods.len(), "placing a group");
            for pod in &pods {
                let lifted = apply::lift_gate(client, pod, now).await?;
                written.extend(lifted.map(|pod| Seen::Pod(Event::Apply(pod))));
            }
        }
        Order::Withdraw(pods) => {
            tracing::warn!(namespace, set, members = pods.len(), "withdrawing a group");
            let noted = apply::note(client, (namespace, set), labels::WITHDRAWN, now).await?;
            written.extend(noted.map(|set| Seen::Set(Event::Apply(set))));
            for pod in &pods {
                apply::withdraw(client, pod).await?;
            }
        }
    }
    Ok(())
}

impl Work {
    /// Carries one decision out, then tells people of it.
    pub(super) async fn carry_out(self, tools: Tools) -> Ended {
        let (name, begun) = (self.decision.desired.name.clone(), Instant::now());
        let (mut written, mut done) = (Vec::new(), Vec::new());
        let span = Span::of_decision(&name, self.steps.len());
        let result = self.write(&tools.client, &span, &mut written, &mut done).await;
        span.end(&result);
        tools.metrics.reconciled(begun.elapsed(), result.is_ok());
        let result = result.map(|()| {
            let news = events::news(&self.decision, &done, &self.before);
            tools.teller.tell(name.namespace(), &self.owner, news);
            // What was written is filed at once, so that no watch will tell of it as news.
            if written.is_empty() { Done::WillBeTold } else { Done::LookAgain }
        });
        Ended::Decision(Outcome { name, result }, written)
    }

    async fn write(
        &self,
        client: &Client,
        span: &Span,
        written: &mut Vec<Seen>,
        done: &mut Vec<Action>,
    ) -> Result<(), ApplyError> {
        let name = &self.decision.desired.name;
        for Step { write, action } in &self.steps {
            if let Some(action) = action {
                tracing::info!(deployment = %name, ?action, "acting");
            }
            let span = span.of_write(write.name());
            let wrote = write.carry_out(client, name).await;
            span.end(&wrote);
            match wrote? {
                Wrote::Nothing => continue,
                Wrote::Done => {}
                Wrote::Object(seen) => written.push(*seen),
            }
            done.extend(action);
        }
        Ok(())
    }
}

impl Write {
    /// What it does, to which kind of object.
    fn name(&self) -> &'static str {
        match self {
            Self::Service(_) => "apply Service",
            Self::Budget(_) => "apply PodDisruptionBudget",
            Self::Claim(_) => "create PersistentVolumeClaim",
            Self::Set(_) => "apply StatefulSet",
            Self::NoteDrain(..) => "annotate StatefulSet",
            Self::DeleteService(_) => "delete Service",
            Self::DeleteBudget(_) => "delete PodDisruptionBudget",
            Self::DeleteSet(_) => "delete StatefulSet",
            Self::ForgetPod(_) => "delete Pod",
            Self::Status(_) => "report status",
        }
    }

    async fn carry_out(&self, client: &Client, name: &DeploymentName) -> Result<Wrote, ApplyError> {
        let is_done = |()| Wrote::Done;
        match self {
            Self::Service(object) => {
                Ok(Wrote::of(apply::object(client, &**object).await?, Seen::Service))
            }
            Self::Budget(object) => {
                Ok(Wrote::of(apply::object(client, &**object).await?, Seen::Budget))
            }
            Self::Claim(object) => apply::claim(client, object).await.map(|()| Wrote::Nothing),
            Self::Set(object) => Ok(Wrote::of(apply::object(client, &**object).await?, Seen::Set)),
            Self::NoteDrain(id, since) => {
                let set = labels::replica_name(name, *id);
                let set = (name.namespace(), set.as_str());
                let noted = apply::note(client, set, labels::DRAIN_SINCE, *since).await?;
                Ok(Wrote::of(noted, Seen::Set))
            }
            Self::DeleteService(object) => apply::delete(client, &**object).await.map(is_done),
            Self::DeleteBudget(object) => apply::delete(client, &**object).await.map(is_done),
            Self::DeleteSet(object) => apply::delete(client, &**object).await.map(is_done),
            Self::ForgetPod(pod) => {
                tracing::info!(deployment = %name, pod = pod.name_any(), "forgetting a lost pod");
                apply::forget(client, pod).await.map(is_done)
            }
            Self::Status(status) => {
                Ok(Wrote::of(apply::status(client, name, status).await?, Seen::Deployment))
            }
        }
    }
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
