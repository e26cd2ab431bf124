//! Carrying decisions out: what the plan says, then the status that says it.

use std::time::Instant;

use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use naru_api::ModelDeploymentStatus;
use naru_plan::{Action, DeploymentName, Desired, ReplicaId};

use super::apply::{self, ApplyError};
use super::cluster::Seen;
use super::observe::Parts;
use super::status::Report;
use super::{DECISIONS_AT_ONCE, Kubernetes, PASS_MAX, build, events, labels, observe, status};
use crate::world::{Decision, Done, Outcome, World};

/// What was written, as the API server answered it.
type Written = Vec<Seen>;

/// What came of an action.
enum Act {
    /// There was nothing to do, or nothing any more.
    Nothing,
    /// It was done.
    Done,
    /// It was done by writing this.
    Wrote(Box<StatefulSet>),
}

impl Act {
    fn of(written: Option<StatefulSet>) -> Self {
        written.map_or(Self::Nothing, |set| Self::Wrote(Box::new(set)))
    }
}

impl Kubernetes {
    /// Carries decisions out, several at a time; returns what became of them, and what was written.
    pub(super) async fn carry_out_all(
        &self,
        decisions: &[Decision],
    ) -> Vec<(Outcome<ApplyError>, Written)> {
        let pass = Instant::now();
        let attempts: Vec<_> =
            decisions.iter().map(|decision| self.attempt(decision, pass)).collect();
        stream::iter(attempts).buffer_unordered(DECISIONS_AT_ONCE).collect().await
    }

    /// Carries one decision out, unless the pass has taken too long already.
    async fn attempt(&self, decision: &Decision, pass: Instant) -> (Outcome<ApplyError>, Written) {
        let (name, begun) = (decision.desired.name.clone(), Instant::now());
        let mut written = Written::new();
        if pass.elapsed() > PASS_MAX {
            return (Outcome { name, result: Ok(Done::LookAgain) }, written);
        }
        let result = self.carry_out(decision, &mut written).await;
        self.config.metrics.reconciled(begun.elapsed(), result.is_ok());
        // What was written is filed at once, so that no watch will tell of it as news.
        let done = if written.is_empty() { Done::WillBeTold } else { Done::LookAgain };
        (Outcome { name, result: result.map(|()| done) }, written)
    }

    /// Carries one decision out, then says how things are.
    async fn carry_out(
        &self,
        decision: &Decision,
        written: &mut Written,
    ) -> Result<(), ApplyError> {
        let Decision { desired, observed, plan, scaling } = decision;
        let name = &desired.name;
        let Some(owner) = self.cluster.owner(name) else { return Ok(()) };
        let client = &self.config.client;
        let (service, budget) = (build::service(desired, owner), build::budget(desired, owner));
        let live = self.cluster.services.get(name, &service.name_any());
        let answer = apply::ensure(client, live, &service).await?;
        written.extend(answer.map(|answer| Seen::Service(Event::Apply(answer))));
        let live = self.cluster.budgets.get(name, &budget.name_any());
        let answer = apply::ensure(client, live, &budget).await?;
        written.extend(answer.map(|answer| Seen::Budget(Event::Apply(answer))));
        let mut done = Vec::new();
        for action in &plan.actions {
            match self.act(desired, owner, *action).await? {
                Act::Nothing => continue,
                Act::Done => {}
                Act::Wrote(set) => written.push(Seen::Set(Event::Apply(*set))),
            }
            done.push(*action);
        }
        self.prune(name, &service.name_any(), &budget.name_any()).await?;
        let live = self.live_status(name);
        let report = Report {
            name,
            generation: self.generation(name),
            conditions: &plan.conditions,
            observed,
            scaling,
            live: &live,
        };
        let status = status::status(&report);
        if status != live {
            let answer = apply::status(client, name, &status).await?;
            written.extend(answer.map(|answer| Seen::Deployment(Event::Apply(answer))));
        }
        let ready = live.conditions.iter().find(|condition| condition.type_ == "Ready");
        let news = events::news(decision, &done, ready.map(|ready| ready.reason.as_str()));
        self.teller.tell(name.namespace(), owner, news);
        Ok(())
    }

    /// Carries one action out.
    async fn act(
        &self,
        desired: &Desired,
        owner: &OwnerReference,
        action: Action,
    ) -> Result<Act, ApplyError> {
        let (client, name) = (&self.config.client, &desired.name);
        let deployment = name.to_string();
        match action {
            Action::Create(id) => {
                let set = build::replica(desired, id, owner, &self.config.worker);
                let live = self.cluster.sets.get(name, &set.name_any());
                tracing::info!(deployment, ?action, "acting");
                apply::ensure(client, live, &set).await.map(Act::of)
            }
            Action::Drain(id) => {
                tracing::info!(deployment, ?action, "acting");
                apply::note_drain(client, name, id, self.now()).await.map(Act::of)
            }
            Action::Remove(id) => {
                let Some(parts) = self.parts(name, id) else { return Ok(Act::Nothing) };
                let is_new = parts.set.metadata.deletion_timestamp.is_none();
                if is_new {
                    tracing::info!(deployment, ?action, "acting");
                    apply::delete(client, parts.set).await?;
                }
                // What goes anyway need not be waited for on a node that does not answer.
                if parts.is_unreachable() {
                    self.forget(name, parts).await?;
                }
                Ok(if is_new { Act::Done } else { Act::Nothing })
            }
            // What ends on a node that is there, the kubelet starts again.
            Action::Restart(id) => match self.parts(name, id) {
                Some(parts) if parts.is_lost() => self.forget(name, parts).await,
                _ => Ok(Act::Nothing),
            },
        }
    }

    fn parts(&self, name: &DeploymentName, id: ReplicaId) -> Option<Parts<'_>> {
        let mut all = self.cluster.parts(name, &self.members, self.now());
        all.find(|parts| labels::replica_of(parts.set) == Some(id))
    }

    /// A pod on a node that is gone never ends by itself, and stands in the way of its successor.
    async fn forget(&self, name: &DeploymentName, parts: Parts<'_>) -> Result<Act, ApplyError> {
        if let Some(pod) = parts.pod {
            let (deployment, pod_name) = (name.to_string(), pod.name_any());
            tracing::info!(deployment, pod = pod_name, "forgetting a pod on a lost node");
            return apply::forget(&self.config.client, pod).await.map(|()| Act::Done);
        }
        Ok(Act::Nothing)
    }

    /// Deletes what was made for this deployment once and is not any more.
    async fn prune(
        &self,
        name: &DeploymentName,
        service: &str,
        budget: &str,
    ) -> Result<(), ApplyError> {
        let client = &self.config.client;
        for other in self.cluster.services.of(name).filter(|other| other.name_any() != service) {
            apply::delete(client, other).await?;
        }
        for other in self.cluster.budgets.of(name).filter(|other| other.name_any() != budget) {
            apply::delete(client, other).await?;
        }
        Ok(())
    }

    pub(super) fn live_status(&self, name: &DeploymentName) -> ModelDeploymentStatus {
        let object = self.cluster.deployments.get(name, name.name());
        let status = object.and_then(|object| object.data.get("status")).cloned();
        status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default()
    }

    fn generation(&self, name: &DeploymentName) -> Option<i64> {
        self.cluster.deployments.get(name, name.name())?.metadata.generation
    }

    /// Says of the refused deployments why they are.
    pub(super) async fn report_refusals(&mut self) {
        for name in std::mem::take(&mut self.unreported) {
            let Some(refusal) = self.refusals.get(&name) else { continue };
            let live = self.live_status(&name);
            let observed = self.observe(&name);
            let generation = self.generation(&name);
            let report = Report {
                name: &name,
                generation,
                conditions: &[],
                observed: &observed,
                scaling: &[],
                live: &live,
            };
            let status = status::refused(refusal, &report, self.now());
            if status == live {
                continue;
            }
            if let Err(error) = apply::status(&self.config.client, &name, &status).await {
                let error = crate::reconcile::one_line(&error);
                tracing::warn!(deployment = %name, error, "a refusal could not be reported");
                self.unreported.insert(name);
            }
        }
    }

    /// Passes the order to drain on to members that have not had it.
    pub(super) fn order_drains(&mut self, desired: &Desired) {
        let now = self.now();
        let draining: Vec<_> = self
            .cluster
            .parts(&desired.name, &self.members, now)
            .filter(|parts| observe::is_draining(*parts))
            .filter_map(|parts| parts.pod?.metadata.uid.clone())
            .collect();
        for pod in draining {
            self.members.drain(&desired.name, &pod, desired.drain);
        }
    }
}
