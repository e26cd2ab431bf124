//! Carrying decisions out while the loop goes on: what the plan says, then the status that says it.

use std::time::Instant;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use naru_api::ModelDeploymentStatus;
use naru_plan::power::BudgetReport;
use naru_plan::{Action, DeploymentName, Desired, ReplicaId};
use serde::Serialize;
use tokio::task::JoinError;

use super::cluster::Seen;
use super::gang::{Order, Orders};
use super::observe::Parts;
use super::shelf::Shelf;
use super::status::Report;
use super::work::{self, Ended, Step, Tools, Work, Write};
use super::{
    DECISION_AGE_MAX, DECISIONS_AT_ONCE, Kubernetes, apply, build, events, labels, observe, status,
};
use crate::world::{Decision, Done, Outcome, World};

impl Kubernetes {
    /// Begins as many decisions as are carried out at the same time, then reports refusals.
    pub(super) fn begin_more(&mut self) {
        while self.writing.len() < DECISIONS_AT_ONCE {
            if let Some((since, decision)) = self.waiting.pop_front() {
                self.begin(since, decision);
            } else if let Some(name) = self.unreported.pop_first() {
                self.report_refusal(name);
            } else {
                break;
            }
        }
        self.config.metrics.depth(self.waiting.len() + self.writing.len());
    }

    /// Begins one decision, unless too much may have happened since it was made.
    fn begin(&mut self, since: Instant, decision: Decision) {
        let name = decision.desired.name.clone();
        if since.elapsed() > DECISION_AGE_MAX {
            self.outcomes.push(Outcome { name, result: Ok(Done::LookAgain) });
            return;
        }
        match self.work(decision) {
            Some(work) => drop(self.writing.spawn(work.carry_out(self.tools()))),
            None => self.outcomes.push(Outcome { name, result: Ok(Done::WillBeTold) }),
        }
    }

    fn tools(&self) -> Tools {
        let (client, metrics) = (self.config.client.clone(), self.config.metrics.clone());
        Tools { client, teller: self.teller.clone(), metrics }
    }

    /// Takes what is over, and begins more.
    pub(super) fn take_ended(&mut self, ended: Result<Ended, JoinError>) {
        let mut next = Some(ended);
        while let Some(ended) = next {
            match ended {
                Ok(Ended::Decision(outcome, written)) => {
                    // Known at once: the watches tell it later.
                    written.into_iter().for_each(|written| drop(self.cluster.take(written)));
                    self.outcomes.push(outcome);
                }
                Ok(Ended::Refusal(name, result)) => {
                    if let Err(error) = result {
                        let error = crate::reconcile::one_line(&error);
                        tracing::warn!(deployment = %name, error, "a refusal was not reported");
                        self.unreported_again.insert(name);
                    }
                }
                Ok(Ended::PowerBudget(name, answer)) => {
                    self.budgets_under_way.remove(&name);
                    match answer {
                        Ok(answer) => answer.into_iter().for_each(|object| {
                            drop(self.cluster.take(Seen::PowerBudget(Event::Apply(*object))));
                        }),
                        Err(error) => {
                            let error = crate::reconcile::one_line(&error);
                            tracing::warn!(power_budget = name, error, "its status is not written");
                        }
                    }
                }
                Ok(Ended::Group(set, written, result)) => {
                    self.groups_under_way.remove(&set);
                    written.into_iter().for_each(|pod| drop(self.cluster.take(pod)));
                    if let Err(error) = result {
                        let (error, set) = (crate::reconcile::one_line(&error), set.1);
                        tracing::warn!(set, error, "a group of members is not placed");
                    }
                }
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
            next = self.writing.try_join_next();
        }
        self.begin_more();
    }

    /// What one decision comes to; `None`: its deployment is gone.
    fn work(&self, decision: Decision) -> Option<Work> {
        let name = &decision.desired.name;
        let owner = self.cluster.owner(name)?.clone();
        let mut steps = Vec::new();
        let mut add = |write| steps.push(Step { write, action: None });
        let service = build::service(&decision.desired, &owner);
        let allowed = decision.power.as_ref().map(|power| power.replicas);
        let most = allowed.unwrap_or(decision.desired.replicas);
        let budget = build::budget(&decision.desired, most, &owner);
        let (service_name, budget_name) = (service.name_any(), budget.name_any());
        if is_missing(&self.cluster.services, name, &service) {
            add(Write::Service(Box::new(service)));
        }
        if is_missing(&self.cluster.budgets, name, &budget) {
            add(Write::Budget(Box::new(budget)));
        }
        for action in &decision.plan.actions {
            self.act(&decision.desired, &owner, *action, &mut steps);
        }
        // What was made for this deployment once and is not any more.
        let mut add = |write| steps.push(Step { write, action: None });
        let services = self.cluster.services.of(name);
        for other in services.filter(|other| other.name_any() != service_name) {
            add(Write::DeleteService(Box::new(other.clone())));
        }
        let budgets = self.cluster.budgets.of(name);
        for other in budgets.filter(|other| other.name_any() != budget_name) {
            add(Write::DeleteBudget(Box::new(other.clone())));
        }
        let live = self.live_status(name);
        let status = status::status(&Report {
            name,
            generation: self.generation(name),
            revision: Some(decision.desired.template.revision()),
            conditions: &decision.plan.conditions,
            observed: &decision.observed,
            scaling: &decision.scaling,
            charged: decision.power.as_ref().map(|power| power.charged),
            live: &live,
        });
        if status != live {
            add(Write::Status(Box::new(status)));
        }
        Some(Work { owner, steps, before: live.conditions, decision })
    }

    /// What one action comes to.
    fn act(
        &self,
        desired: &Desired,
        owner: &OwnerReference,
        action: Action,
        steps: &mut Vec<Step>,
    ) {
        let name = &desired.name;
        let mut add = |write, action| steps.push(Step { write, action });
        match action {
            Action::Create(id) => {
                let set = build::replica(desired, id, owner, &self.config.worker);
                if is_missing(&self.cluster.sets, name, &set) {
                    if let Some(cache) = &self.config.worker.cache {
                        let claim = build::cache_claim(name.namespace(), cache);
                        add(Write::Claim(Box::new(claim)), None);
                    }
                    add(Write::Set(Box::new(set)), Some(action));
                }
            }
            Action::Drain(id) => add(Write::NoteDrain(id, self.now()), Some(action)),
            Action::Remove(id) => {
                let Some(parts) = self.parts(name, id) else { return };
                if parts.set.metadata.deletion_timestamp.is_none() {
                    add(Write::DeleteSet(Box::new(parts.set.clone())), Some(action));
                }
                // What goes anyway need not be waited for on a node that does not answer.
                let unreachable = parts.members.iter().filter(|member| member.is_unreachable());
                for pod in unreachable.filter_map(|member| member.pod) {
                    add(Write::ForgetPod(Box::new(pod.clone())), None);
                }
            }
            // What ends on a node that is there, the kubelet starts again.
            Action::Restart(id) => {
                let Some(parts) = self.parts(name, id) else { return };
                let lost = parts.members.iter().filter(|member| member.is_lost());
                for pod in lost.filter_map(|member| member.pod) {
                    add(Write::ForgetPod(Box::new(pod.clone())), Some(action));
                }
            }
        }
    }

    fn parts(&self, name: &DeploymentName, id: ReplicaId) -> Option<Parts<'_>> {
        let mut all = self.cluster.parts(name, &self.members, self.now());
        all.find(|parts| labels::replica_of(parts.set) == Some(id))
    }

    pub(super) fn live_status(&self, name: &DeploymentName) -> ModelDeploymentStatus {
        let object = self.cluster.deployments.get(name, name.name());
        let status = object.and_then(|object| object.data.get("status")).cloned();
        status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default()
    }

    fn generation(&self, name: &DeploymentName) -> Option<i64> {
        self.cluster.deployments.get(name, name.name())?.metadata.generation
    }

    /// Says of a refused deployment why it is.
    fn report_refusal(&mut self, name: DeploymentName) {
        let Some(refusal) = self.refusals.get(&name) else { return };
        let live = self.live_status(&name);
        let report = Report {
            name: &name,
            generation: self.generation(&name),
            revision: None,
            conditions: &[],
            observed: &self.observe(&name),
            scaling: &[],
            charged: None,
            live: &live,
        };
        let status = status::refused(refusal, &report, self.now());
        if status == live {
            return;
        }
        let client = self.config.client.clone();
        self.writing.spawn(async move {
            let result = apply::status(&client, &name, &status).await;
            Ended::Refusal(name, result.map(|_| ()))
        });
    }

    /// Writes how the power budgets stand, where their objects say something else.
    pub(super) fn write_budgets(&mut self, reports: &[BudgetReport]) {
        for (name, status) in self.cluster.power.news(reports, self.now()) {
            if self.budgets_under_way.insert(name.clone()) {
                let client = self.config.client.clone();
                self.writing.spawn(async move {
                    let answer = apply::budget_status(&client, &name, &status).await;
                    Ended::PowerBudget(name, answer.map(|object| object.map(Box::new)))
                });
            }
        }
    }

    /// Lets groups of members through to nodes, and withdraws those that found none.
    pub(super) fn place_groups(&mut self) {
        let now = self.now();
        let Orders { orders, next_check } = self.cluster.group_orders(now);
        let is_free = |set: &StatefulSet| !self.groups_under_way.contains(&key(set));
        let orders: Vec<_> = orders
            .into_iter()
            .filter(|(set, _)| is_free(set))
            .map(|(set, order)| {
                let name = labels::deployment_of(set);
                let owner = name.as_ref().and_then(|name| self.cluster.owner(name)).cloned();
                (key(set), owner, order)
            })
            .collect();
        self.group_check = next_check;
        for (set, owner, order) in orders {
            self.groups_under_way.insert(set.clone());
            if let (Order::Withdraw(_), Some(owner)) = (&order, &owner) {
                self.teller.tell(&set.0, owner, vec![events::withdrawn(&set.1)]);
            }
            let client = self.config.client.clone();
            self.writing.spawn(async move {
                let (mut written, name) = (Vec::new(), (set.0.as_str(), set.1.as_str()));
                let result = work::place(&client, name, order, now, &mut written).await;
                Ended::Group(set, written, result)
            });
        }
    }

    /// Passes the order to drain on to members that have not had it.
    pub(super) fn order_drains(&mut self, desired: &Desired) {
        let now = self.now();
        let draining: Vec<_> = self
            .cluster
            .parts(&desired.name, &self.members, now)
            .filter_map(|parts| observe::drains(&parts)?.metadata.uid.clone())
            .collect();
        for pod in draining {
            self.members.drain(&desired.name, &pod, desired.drain);
        }
    }
}

/// Namespace and name of a replica's StatefulSet.
fn key(set: &StatefulSet) -> (String, String) {
    (set.namespace().unwrap_or_default(), set.name_any())
}

/// Whether an object is not there as it is wished.
fn is_missing<K: ResourceExt + Serialize>(
    shelf: &Shelf<K>,
    name: &DeploymentName,
    wished: &K,
) -> bool {
    !apply::is_there(shelf.get(name, &wished.name_any()), wished)
}
