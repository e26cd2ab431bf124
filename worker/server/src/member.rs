//! What this process is at the moment: fetching, loading, ready, draining or failed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use naru_engine::{ChatTemplate, Tokenizer};
use naru_protocol::worker::v1::{Progress, State, StatusReport, Totals, WeightsFault};
use tokio::sync::watch;

use crate::clock;
use crate::drive::Drive;
use crate::metrics::Metrics;

/// Why nothing can be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub(crate) struct Failure {
    /// For people.
    pub(crate) words: String,
    /// For programs, if it is the weights.
    pub(crate) fault: WeightsFault,
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self { words, fault: WeightsFault::Unspecified }
    }
}

/// Where the member is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Weights are on their way to the cache.
    Fetching,
    /// Weights are laid out in memory.
    Loading,
    /// The ranks of the replica are not together, and why.
    Apart(String),
    /// Requests are answered, or for ranks other than 0, computed.
    Ready,
    /// Running requests finish, new ones are refused.
    Draining,
    /// Nothing can be served, and why.
    Failed(Failure),
}

/// Bytes done of bytes in all; a total of 0 is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    phase: Phase,
    fetch: Bytes,
    load: Bytes,
}

/// A model that is ready to answer.
pub(crate) struct Served {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// `None`: the checkpoint has none, and chat is refused.
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) defaults: Defaults,
    /// Tokens of prompt and answer together.
    pub(crate) context_tokens_max: usize,
    pub(crate) drive: Drive,
}

/// Sampling that the checkpoint's authors recommend; applied where a request says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Defaults {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
}

/// One member of a replica, shared by everything in this process.
pub(crate) struct Member {
    /// Names that requests may give; the first is answered with.
    pub(crate) names: Vec<String>,
    /// What answers say of the system that made them; None: nothing.
    pub(crate) fingerprint: Option<String>,
    /// Unix seconds.
    pub(crate) started: u64,
    pub(crate) metrics: Arc<Metrics>,
    condition: watch::Sender<Condition>,
    served: OnceLock<Served>,
    drain_seconds: AtomicU32,
}

impl Member {
    /// A member that is about to fetch or load. `names` has at least one.
    pub(crate) fn new(names: Vec<String>, fingerprint: Option<String>, drain_seconds: u32) -> Self {
        let condition =
            Condition { phase: Phase::Fetching, fetch: Bytes::default(), load: Bytes::default() };
        let metrics = Arc::new(Metrics::new(&names[0]));
        Self {
            names,
            fingerprint,
            started: clock::unix_seconds(),
            metrics,
            condition: watch::channel(condition).0,
            served: OnceLock::new(),
            drain_seconds: AtomicU32::new(drain_seconds),
        }
    }

    /// Where it is now.
    pub(crate) fn phase(&self) -> Phase {
        self.condition.borrow().phase.clone()
    }

    /// The model, once it is loaded; also while draining.
    pub(crate) fn served(&self) -> Option<&Served> {
        self.served.get()
    }

    /// Follows the phases from here on.
    pub(crate) fn changes(&self) -> Changes {
        Changes { condition: self.condition.subscribe(), seen: self.phase() }
    }

    /// Refuses new requests from now on; running ones get `seconds`, or what is configured.
    pub(crate) fn drain(&self, seconds: Option<u32>) {
        if let Some(seconds) = seconds {
            self.drain_seconds.store(seconds, Ordering::Relaxed);
        }
        self.enter(Phase::Draining);
    }

    /// How long running requests may go on while draining.
    pub(crate) fn drain_seconds(&self) -> u32 {
        self.drain_seconds.load(Ordering::Relaxed)
    }

    /// Goes on to `phase`; a member that drains or has failed does not come back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.condition.send_if_modified(|condition| {
            let over = match condition.phase {
                Phase::Failed(_) => true,
                Phase::Draining => !matches!(phase, Phase::Failed(_)),
                _ => false,
            };
            if over || condition.phase == phase {
                return false;
            }
            tracing::info!(phase = ?phase, "entering a phase");
            condition.phase = phase;
            true
        });
    }

    /// Takes the loaded model; when it is ready to answer is said apart.
    pub(crate) fn take(&self, served: Served) {
        let first = self.served.set(served).is_ok();
        assert!(first, "a member loads once");
    }

    /// Notes how far the fetch is.
    pub(crate) fn fetched(&self, bytes: Bytes) {
        self.condition.send_modify(|condition| condition.fetch = bytes);
    }

    /// Notes how far the load is.
    pub(crate) fn loaded(&self, bytes: Bytes) {
        self.condition.send_modify(|condition| condition.load = bytes);
    }

    /// The whole of it, for whoever follows this member.
    pub(crate) fn report(&self) -> StatusReport {
        let Condition { phase, fetch, load } = self.condition.borrow().clone();
        let progress =
            |bytes: Bytes| Some(Progress { bytes_done: bytes.done, bytes_total: bytes.total });
        let (state, failure) = match phase {
            Phase::Fetching => (State::Fetching, None),
            Phase::Loading => (State::Loading, None),
            Phase::Apart(words) => (State::Apart, Some(words.into())),
            Phase::Ready => (State::Ready, None),
            Phase::Draining => (State::Draining, None),
            Phase::Failed(failure) => (State::Failed, Some(failure)),
        };
        let Failure { words: reason, fault } = failure.unwrap_or_else(|| String::new().into());
        let current = self.served().map(|served| *served.drive.load().borrow()).unwrap_or_default();
        let stats = current.stats;
        StatusReport {
            state: state.into(),
            reason,
            fetch: progress(fetch),
            load: progress(load),
            model_names: self.names.clone(),
            running: stats.running as u32,
            waiting: stats.waiting as u32,
            queued_prompt_tokens: current.queued_prompt_tokens,
            kv_blocks_used: stats.kv_blocks_used as u64,
            kv_blocks_total: stats.kv_blocks_total as u64,
            totals: Some(Totals {
                requests: current.requests_total,
                prompt_tokens: stats.prompt_tokens_total,
                cached_prompt_tokens: stats.prefix_hit_tokens_total,
                generation_tokens: stats.generation_tokens_total,
                preemptions: stats.preemptions_total,
            }),
            weights_fault: fault.into(),
            context_tokens_max: self.served().map_or(0, |one| one.context_tokens_max as u64),
        }
    }
}

/// Follows a member.
#[derive(Clone)]
pub(crate) struct Changes {
    condition: watch::Receiver<Condition>,
    seen: Phase,
}

impl Changes {
    /// Returns once the phase is another than at the last call.
    pub(crate) async fn next_phase(&mut self) {
        let Self { condition, seen } = self;
        let changed = condition.wait_for(|condition| condition.phase != *seen).await;
        // An error: nothing changes any more.
        let phase = changed.ok().map(|condition| condition.phase.clone());
        let Some(phase) = phase else { return std::future::pending().await };
        self.seen = phase;
    }

    /// Returns once the member drains or has failed.
    pub(crate) async fn ending(&mut self) {
        let ended =
            |condition: &Condition| matches!(condition.phase, Phase::Draining | Phase::Failed(_));
        let over = self.condition.wait_for(ended).await.is_err();
        if over {
            std::future::pending::<()>().await;
        }
    }
}
