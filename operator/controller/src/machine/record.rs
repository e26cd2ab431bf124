//! What is known of one replica on this machine: its members, taken together.
//!
//! A member that ended is started again alone, where the others look for it. If it ended before it
//! listened, or if all did, nobody looks for it yet, or in vain: then all are started anew, at
//! addresses that are free now.

use std::error::Error;
use std::net::SocketAddr;

use naru_plan::{
    Backend, DeploymentName, Millis, Moment, Phase, Replica, ReplicaId, Revision, SILENT_MAX,
    Template, WorkerFailure, group,
};
use naru_protocol::Endpoint;
use naru_protocol::worker::v1::State;

use super::member::Member;
use super::ports;
use super::worker::{Handle, What};
use crate::arguments;
use crate::member::Order;
use crate::reconcile::one_line;

/// One replica: what it was made from, and how its members have fared.
pub(super) struct Record {
    pub(super) template: Template,
    /// In their order; there is always the first.
    members: Vec<Member>,
    /// Where the first rank of each member is found; empty: there is one rank.
    links: Vec<SocketAddr>,
    revision: Revision,
    created: Moment,
    drain_since: Option<Moment>,
    /// Since when all members have been ready.
    ready_since: Option<Moment>,
    has_served: bool,
}

impl Record {
    pub(super) fn new(template: Template, now: Moment) -> Self {
        let members = (0..template.parallelism.members()).map(|_| Member::new(now)).collect();
        Self {
            revision: template.revision(),
            template,
            members,
            links: Vec::new(),
            created: now,
            drain_since: None,
            ready_since: None,
            has_served: false,
        }
    }

    /// Whether its ranks have to be given new addresses, to all members at once.
    pub(super) fn needs_links(&self) -> bool {
        let is_over = |member: &Member| !member.is_running();
        self.template.parallelism.ranks() > 1
            && (self.members.iter().all(is_over)
                || self.members.iter().any(Member::has_found_no_place))
    }

    /// Gives its ranks addresses. No member may be running.
    pub(super) fn meets_at(&mut self, links: Vec<SocketAddr>) {
        self.links = links;
    }

    /// The ports of its ranks.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        let each = self.template.parallelism.devices_per_member();
        self.links.iter().flat_map(move |first| ports::of_member(first.port(), each))
    }

    /// The members that do not run.
    pub(super) fn idle(&self) -> Vec<usize> {
        let all = self.members.iter().enumerate();
        all.filter(|(_, member)| !member.is_running()).map(|(number, _)| number).collect()
    }

    /// How a member finds the others, and its GPUs, which lie side by side on this machine.
    pub(super) fn arguments(
        &self,
        name: &DeploymentName,
        id: ReplicaId,
        member: usize,
    ) -> Vec<String> {
        let Some(listen) = self.links.get(member) else { return Vec::new() };
        let members: Vec<_> = self.links.iter().map(SocketAddr::to_string).collect();
        let (replica, number) = (format!("{name}-{id}"), member.to_string());
        let mut arguments = arguments::of_member(replica, number, &members, listen.to_string());
        if let Backend::Cuda(_) = self.template.backend {
            let first = member * self.template.parallelism.devices_per_member() as usize;
            arguments.extend(["--device".to_owned(), first.to_string()]);
        }
        arguments
    }

    /// A new run of a member begins.
    pub(super) fn starts(&mut self, member: usize, run: u64, now: Moment) {
        self.members[member].starts(run, now);
        self.settle(now);
    }

    pub(super) fn runs_as(&mut self, member: usize, handle: Handle) {
        self.members[member].runs_as(handle);
    }

    /// The process of a member could not even be started.
    pub(super) fn cannot_start(&mut self, member: usize, error: &dyn Error, now: Moment) {
        self.members[member].stopped(WorkerFailure::Config(one_line(error)), now);
    }

    /// Takes what a run of a member, or its end, told; returns whether that is the present run.
    pub(super) fn take(&mut self, member: usize, run: u64, what: What, now: Moment) -> bool {
        let member = self.members.get_mut(member).filter(|member| member.run == run);
        let Some(member) = member else { return false };
        if matches!(&what, What::Report(report) if report.state() == State::Draining) {
            self.drain_since.get_or_insert(now); // somebody else told it to
        }
        member.take(what, now);
        self.settle(now);
        true
    }

    fn settle(&mut self, now: Moment) {
        if self.phase() == Phase::Ready {
            self.has_served = true;
            self.ready_since.get_or_insert(now);
        } else {
            self.ready_since = None;
        }
    }

    /// Tells the workers to finish and end: member 0, which answers, and which the others need for
    /// nothing once it is done.
    pub(super) fn drain(&mut self, within: Millis, now: Moment) {
        self.drain_since.get_or_insert(now);
        self.members[0].tell(Order::Drain(within));
    }

    /// Ends the processes, if there are any, and waits until they are gone.
    pub(super) async fn end(&mut self) {
        for member in &mut self.members {
            member.end().await;
        }
    }

    /// Ends what stands in the way of a new start, and waits until it is gone: members that have
    /// been silent for too long, and all if their ranks need other addresses.
    pub(super) async fn make_way(&mut self, now: Moment) {
        for member in &mut self.members {
            if member.silent_since().is_some_and(|since| is_too_long(since, now)) {
                member.give_up(now).await;
            }
        }
        if self.needs_links() {
            self.end().await;
        }
    }

    /// When the next of the silent members will have been so for too long.
    pub(super) fn silent_until(&self, now: Moment) -> Option<Moment> {
        let silent = self.members.iter().filter_map(Member::silent_since);
        silent.filter(|since| !is_too_long(*since, now)).map(|since| since.after(SILENT_MAX)).min()
    }

    /// Memory that was promised to all its members.
    pub(super) fn memory(&self) -> u64 {
        self.template.memory().0
    }

    /// What all members together are doing.
    pub(super) fn phase(&self) -> Phase {
        let drains = self.drain_since.is_some();
        group::phase(self.template.parallelism, &self.members(), drains, self.has_served)
    }

    fn members(&self) -> Vec<group::Member> {
        self.members.iter().map(Member::seen).collect()
    }

    pub(super) fn seen(&self, id: ReplicaId, now: Moment) -> Replica {
        let phase = match self.phase() {
            // Ranks wait for one that was lost, but not for ever for one that does not come back.
            Phase::Apart { lost } => match self.silent_for_too_long(now) {
                Some(since) => Phase::Silent { since },
                None => Phase::Apart { lost },
            },
            phase => phase,
        };
        Replica {
            id,
            revision: self.revision,
            phase,
            created: self.created,
            ready_since: self.ready_since,
            drain_since: self.drain_since,
            has_served: self.has_served,
            failures: group::failures(&self.members()),
            displaced: false,
        }
    }

    /// Since when the first of those members has been silent that have been so for too long.
    fn silent_for_too_long(&self, now: Moment) -> Option<Moment> {
        let silent = self.members.iter().filter_map(Member::silent_since);
        silent.filter(|since| is_too_long(*since, now)).min()
    }

    /// Where it answers: member 0. Until that has said so it has no address, and is not ready.
    pub(super) fn endpoint(&self, replica: String) -> Endpoint {
        let address = self.members[0].address().unwrap_or_default().to_owned();
        let ready = !address.is_empty() && self.phase() == Phase::Ready;
        Endpoint { replica, address, ready, draining: self.drain_since.is_some() }
    }
}

/// Whether whoever has been silent since then is killed and started again.
fn is_too_long(since: Moment, now: Moment) -> bool {
    since.after(SILENT_MAX) <= now
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
