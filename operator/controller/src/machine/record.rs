//! What is known of one replica on this machine.

use naru_plan::{
    Bytes, Failures, Millis, Moment, Phase, Replica, ReplicaId, Revision, Template, WorkerFailure,
};
use naru_protocol::Endpoint;
use naru_protocol::worker::v1::{State, StatusReport};

use super::worker::{Handle, SpawnError, What};
use crate::member::{Order, weights_fault};

/// One replica: what it was made from, how it has fared, and its process while there is one.
pub(super) struct Record {
    pub(super) template: Template,
    /// The run of the worker; events of other runs are not this one's.
    pub(super) run: u64,
    pub(super) phase: Phase,
    revision: Revision,
    created: Moment,
    drain_since: Option<Moment>,
    ready_since: Option<Moment>,
    has_served: bool,
    failures: Failures,
    /// `host:port` of its HTTP, once it said so.
    address: Option<String>,
    /// The worker's own words about a failure, before it ended.
    last_words: Option<WorkerFailure>,
    handle: Option<Handle>,
}

impl Record {
    pub(super) fn new(template: Template, now: Moment) -> Self {
        Self {
            revision: template.revision(),
            template,
            created: now,
            run: 0,
            phase: Phase::Silent { since: now },
            drain_since: None,
            ready_since: None,
            has_served: false,
            failures: Failures(0),
            address: None,
            last_words: None,
            handle: None,
        }
    }

    /// A new run begins.
    pub(super) fn starts(&mut self, run: u64, now: Moment) {
        self.run = run;
        self.phase = Phase::Silent { since: now };
        (self.ready_since, self.address, self.last_words) = (None, None, None);
    }

    pub(super) fn runs_as(&mut self, handle: Handle) {
        self.handle = Some(handle);
    }

    /// The process could not even be started.
    pub(super) fn cannot_start(&mut self, error: &SpawnError, now: Moment) {
        self.stopped(WorkerFailure::Config(error.to_string()), now);
    }

    /// Takes what the worker, or its end, told.
    pub(super) fn take(&mut self, what: What, now: Moment) {
        match what {
            What::Listening { address } => self.address = Some(address),
            What::Report(report) => self.reported(&report, now),
            What::Silent => {
                if !matches!(self.phase, Phase::Silent { .. } | Phase::Stopped { .. }) {
                    self.phase = Phase::Silent { since: now };
                }
            }
            What::Ended(how) => {
                self.handle = None;
                let failure = self.last_words.take().unwrap_or(how);
                self.stopped(failure, now);
            }
        }
    }

    fn reported(&mut self, report: &StatusReport, now: Moment) {
        let words = || report.reason.clone();
        self.phase = match report.state() {
            State::Unspecified => return,
            State::Fetching => {
                let fetch = report.fetch.unwrap_or_default();
                let total = (fetch.bytes_total > 0).then_some(Bytes(fetch.bytes_total));
                Phase::Fetching { done: Bytes(fetch.bytes_done), total }
            }
            State::Loading | State::Apart => Phase::Loading,
            State::Ready => {
                self.has_served = true;
                self.ready_since.get_or_insert(now);
                Phase::Ready
            }
            State::Draining => {
                self.drain_since.get_or_insert(now); // somebody else told it to
                return;
            }
            State::Failed => {
                let is_weights = matches!(self.phase, Phase::Fetching { .. } | Phase::Loading);
                let failure = if is_weights || !self.has_served {
                    WorkerFailure::Weights(weights_fault(report.weights_fault()), words())
                } else {
                    WorkerFailure::Ended(words())
                };
                self.last_words = Some(failure);
                return;
            }
        };
    }

    fn stopped(&mut self, failure: WorkerFailure, now: Moment) {
        let ready_for = self.ready_since.take().map_or(Millis(0), |since| now.since(since));
        self.failures = self.failures.and_another(ready_for);
        self.phase = Phase::Stopped { at: now, failure };
        self.address = None;
    }

    /// Tells the worker to finish and end.
    pub(super) fn drain(&mut self, within: Millis, now: Moment) {
        self.drain_since.get_or_insert(now);
        if let Some(handle) = &self.handle {
            handle.tell(Order::Drain(within));
        }
    }

    /// Ends the process, if there is one, and waits until it is gone.
    pub(super) async fn end(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.end().await;
        }
    }

    /// Memory that was promised to it.
    pub(super) fn memory(&self) -> u64 {
        self.template.resources.memory.unwrap_or_default().0
    }

    pub(super) fn seen(&self, id: ReplicaId) -> Replica {
        Replica {
            id,
            revision: self.revision,
            phase: self.phase.clone(),
            created: self.created,
            ready_since: self.ready_since.filter(|_| self.phase == Phase::Ready),
            drain_since: self.drain_since,
            has_served: self.has_served,
            failures: self.failures,
            displaced: false,
        }
    }

    /// Where it answers; one that has not said so yet has no address, and is not ready.
    pub(super) fn endpoint(&self, replica: String) -> Endpoint {
        let ready = matches!(self.phase, Phase::Ready) && self.address.is_some();
        let address = self.address.clone().unwrap_or_default();
        Endpoint { replica, address, ready, draining: self.drain_since.is_some() }
    }
}
