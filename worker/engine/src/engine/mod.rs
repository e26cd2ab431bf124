//! The data loop: admit → schedule → forward → commit.

mod config;
mod forward;

use std::collections::VecDeque;
use std::sync::Arc;

pub use config::{ConfigError, EngineConfig, EngineStats, PrefixCache};
pub use forward::{Batch, Forward, Span, Vocabulary};

use crate::event::Event;
use crate::kv::KV_BLOCK_TOKENS;
use crate::request::{Refusal, Request, RequestId};

/// Requests in, events out, one step at a time. Starts no thread and reads no clock: the same
/// calls in the same order return the same events.
pub struct Engine {
    forward: Box<dyn Forward>,
    vocabulary: Arc<dyn Vocabulary>,
    config: EngineConfig,
    waiting: VecDeque<Request>,
    stats: EngineStats,
}

impl Engine {
    /// An idle engine. `forward` must have a KV cache of `config.kv_blocks` blocks.
    /// Errors: bounds within which nothing could run.
    pub fn new(
        forward: Box<dyn Forward>,
        vocabulary: Arc<dyn Vocabulary>,
        config: EngineConfig,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let stats = EngineStats { kv_blocks_total: config.kv_blocks, ..EngineStats::default() };
        Ok(Self { forward, vocabulary, config, waiting: VecDeque::new(), stats })
    }

    /// Queues a request. Errors: a `Refusal`; nothing of the request is kept.
    pub fn admit(&mut self, request: Request) -> Result<(), Refusal> {
        if request.prompt.is_empty() {
            return Err(Refusal::EmptyPrompt);
        }
        request.sampling.check(self.forward.vocab_size()).map_err(Refusal::Sampling)?;
        self.waiting.push_back(request);
        Ok(())
    }

    /// Frees what a request holds; its `Finished` events come with the next `step`. An id that is
    /// unknown or over already is ignored.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|request| request.id != id);
    }

    /// One pass of the loop. Never fails as a whole: a failed forward pass becomes `Failed` events
    /// of the requests in it.
    pub fn step(&mut self) -> Vec<Event> {
        let error: Arc<str> = "the scheduler is not built yet".into();
        let failed = |request: Request| Event::Failed { id: request.id, error: error.clone() };
        self.waiting.drain(..).map(failed).collect()
    }

    /// Whether a step would have nothing to do and nothing to tell.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What the engine is doing and has done.
    pub fn stats(&self) -> EngineStats {
        EngineStats { waiting: self.waiting.len(), ..self.stats }
    }

    /// Tokens one sequence may hold: the configured context, or the whole KV cache if smaller.
    pub fn context_tokens(&self) -> usize {
        let _ = &self.vocabulary;
        self.config.max_context_tokens.min(self.config.kv_blocks * KV_BLOCK_TOKENS)
    }
}
