//! What is known of one member of a replica on this machine, and its process while there is one.

use naru_plan::{Bytes, Failures, Millis, Moment, Phase, SILENT_MAX, WorkerFailure, group};
use naru_protocol::worker::v1::{State, StatusReport};

use super::worker::{Handle, What};
use crate::member::{Order, weights_fault};

/// One member: how it has fared, and its process.
pub(super) struct Member {
    /// The run of the worker; events of other runs are not this one's.
    pub(super) run: u64,
    pub(super) phase: Phase,
    /// When this run was ready for the first time.
    ready_since: Option<Moment>,
    has_served: bool,
    failures: Failures,
    /// `host:port` of its HTTP, once it said so.
    address: Option<String>,
    /// Whether this run, or the last, came so far as to listen.
    has_listened: bool,
    /// The rank that it misses, as it says.
    blames: Option<u32>,
    /// The worker's own words about a failure, before it ended.
    last_words: Option<WorkerFailure>,
    /// The number of the process of this run.
    process: Option<u32>,
    /// The end of the run before this one, until this one is ready.
    ended: Option<Ended>,
    handle: Option<Handle>,
}

/// When and how a run ended, and the number of its process.
struct Ended {
    at: Moment,
    failure: WorkerFailure,
    process: Option<u32>,
}

impl Member {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            run: 0,
            phase: Phase::Silent { since: now },
            ready_since: None,
            has_served: false,
            failures: Failures(0),
            address: None,
            has_listened: true,
            blames: None,
            last_words: None,
            process: None,
            ended: None,
            handle: None,
        }
    }

    /// A new run begins.
    pub(super) fn starts(&mut self, run: u64, now: Moment) {
        self.run = run;
        self.phase = Phase::Silent { since: now };
        (self.ready_since, self.address, self.last_words) = (None, None, None);
        (self.has_listened, self.process, self.blames) = (false, None, None);
    }

    pub(super) fn runs_as(&mut self, handle: Handle) {
        self.process = handle.process();
        self.handle = Some(handle);
    }

    /// Whether it has a process.
    pub(super) fn is_running(&self) -> bool {
        self.handle.is_some()
    }

    /// Whether it ended, by itself, before it listened: its ports may be somebody else's.
    pub(super) fn has_found_no_place(&self) -> bool {
        matches!(self.phase, Phase::Stopped { .. }) && !self.has_listened
    }

    /// Since when it has been silent; `None`: it speaks, or does not run.
    pub(super) fn silent_since(&self) -> Option<Moment> {
        match self.phase {
            Phase::Silent { since } => Some(since),
            _ => None,
        }
    }

    /// Takes what the worker, or its end, told.
    pub(super) fn take(&mut self, what: What, now: Moment) {
        match what {
            What::Listening { address } => {
                (self.address, self.has_listened) = (Some(address), true);
            }
            What::Report(report) => self.reported(&report, now),
            What::Silent => {
                if !matches!(self.phase, Phase::Silent { .. } | Phase::Stopped { .. }) {
                    self.phase = Phase::Silent { since: now };
                }
            }
            What::Ended(how) => {
                self.handle = None;
                let said = self.last_words.take();
                // What it refuses it said last, and with a code of its own.
                let is_refusal =
                    matches!(how, WorkerFailure::Config(_) | WorkerFailure::NoUsableGpu(_));
                let failure = said.filter(|_| !is_refusal).unwrap_or(how);
                self.stopped(failure, now);
            }
        }
    }

    fn reported(&mut self, report: &StatusReport, now: Moment) {
        let words = || report.reason.clone();
        self.blames = report.lost_rank;
        self.phase = match report.state() {
            State::Fetching => {
                let fetch = report.fetch.unwrap_or_default();
                let total = (fetch.bytes_total > 0).then_some(Bytes(fetch.bytes_total));
                Phase::Fetching { done: Bytes(fetch.bytes_done), total }
            }
            State::Loading => Phase::Loading,
            State::Apart => Phase::Apart { lost: Some(words()) },
            State::Ready => {
                self.has_served = true;
                self.ready_since.get_or_insert(now);
                self.ended = None;
                Phase::Ready
            }
            State::Unspecified | State::Draining => return,
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

    /// It does not run any more, or could not be started.
    pub(super) fn stopped(&mut self, failure: WorkerFailure, now: Moment) {
        let ready_for = self.ready_since.take().map_or(Millis(0), |since| now.since(since));
        self.failures = self.failures.and_another(ready_for);
        self.ended = Some(Ended { at: now, failure: failure.clone(), process: self.process });
        self.phase = Phase::Stopped { at: now, failure };
        self.address = None;
    }

    pub(super) fn tell(&self, order: Order) {
        if let Some(handle) = &self.handle {
            handle.tell(order);
        }
    }

    /// Ends a process that has been silent for too long.
    pub(super) async fn give_up(&mut self, now: Moment) {
        self.end().await;
        let words = format!("it said nothing for {} s and was killed", SILENT_MAX.0 / 1000);
        let (failure, process) = (WorkerFailure::Ended(words), self.process);
        self.ended = Some(Ended { at: now, failure, process });
    }

    /// Ends the process, if there is one, and waits until it is gone.
    pub(super) async fn end(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.end().await;
        }
    }

    /// Where it answers, once it said so.
    pub(super) fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// As the planner takes it together with the others of its replica.
    pub(super) fn seen(&self) -> group::Member {
        // Words about an end are words about the process that ended.
        let process = self.ended.as_ref().map_or(self.process, |ended| ended.process);
        group::Member {
            place: process.map_or("no process".to_owned(), |number| format!("process {number}")),
            phase: self.phase.clone(),
            blames: self.blames,
            ended: self.ended.as_ref().map(|ended| (ended.at, ended.failure.clone())),
            failures: self.failures,
        }
    }
}
