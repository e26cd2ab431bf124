//! The data loop: admit → schedule → forward → commit.

mod choice;
mod config;
mod flight;
mod forward;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::sync::Arc;

pub use config::{ConfigError, EngineConfig, EngineStats, PrefixCache};
pub use forward::{Batch, Forward, Span, StepCost, Vocabulary};

use crate::decoder::LinkTime;
use crate::event::Event;
use crate::kv::{BlockPool, KV_BLOCK_TOKENS};
use crate::request::{Refusal, Request, RequestId};
use crate::sampling::{RowSampling, Sampler};
use crate::schedule::{Bounds, Scheduler, SequenceId, Step};

use flight::{Flight, Limits};

/// Requests in, events out, one step at a time. Starts no thread and reads no clock: the same
/// calls in the same order return the same events.
pub struct Engine {
    forward: Box<dyn Forward>,
    flight: Flight,
    sampler: Sampler,
    context_tokens: usize,
    cost: Option<StepCost>,
}

/// A row of logits: those after the token of `sequence` at `position`.
struct Row {
    sequence: SequenceId,
    position: usize,
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
        let EngineConfig { max_sequences, max_batch_tokens, prefix_cache, .. } = config;
        let pool = BlockPool::new(config.kv_blocks, prefix_cache == PrefixCache::Tenant);
        let scheduler = Scheduler::new(Bounds { max_sequences, max_batch_tokens }, pool);
        let kv_tokens = config.kv_blocks.saturating_mul(KV_BLOCK_TOKENS);
        let context_tokens = config.max_context_tokens.min(kv_tokens);
        let vocab_size = forward.vocab_size();
        let limits = Limits { context_tokens, vocab_size, prefix_cache };
        let flight = Flight::new(vocabulary, scheduler, limits);
        Ok(Self { forward, flight, sampler: Sampler::default(), context_tokens, cost: None })
    }

    /// Queues a request. Errors: a `Refusal`; nothing of the request is kept.
    pub fn admit(&mut self, request: Request) -> Result<(), Refusal> {
        self.flight.admit(request)
    }

    /// Frees what a request holds; its `Finished` events come with the next `step`. An id that is
    /// unknown or over already is ignored.
    pub fn cancel(&mut self, id: RequestId) {
        self.flight.cancel(id);
    }

    /// One pass of the loop. Never fails as a whole: a failed forward pass becomes `Failed` events
    /// of the requests in it.
    pub fn step(&mut self) -> Vec<Event> {
        let step = self.flight.scheduler.schedule();
        self.cost = None;
        if !step.work.is_empty() {
            self.flight.record_admissions(&step);
            self.compute(&step);
        }
        std::mem::take(&mut self.flight.events)
    }

    /// Whether a step would have nothing to do and nothing to tell.
    pub fn is_idle(&self) -> bool {
        self.flight.is_empty()
    }

    /// What the engine is doing and has done.
    pub fn stats(&self) -> EngineStats {
        let pool = self.flight.scheduler.pool();
        EngineStats {
            running: self.flight.scheduler.running(),
            waiting: self.flight.scheduler.waiting(),
            kv_blocks_used: pool.total() - pool.available(),
            kv_blocks_cached: pool.cached(),
            kv_blocks_total: pool.total(),
            ..self.flight.stats
        }
    }

    /// What the last step would have cost, of a model that only pretends to compute; None where
    /// the step computed for real, or had nothing to compute.
    pub fn simulated_cost(&self) -> Option<StepCost> {
        self.cost
    }

    /// What the last step's forward pass took in meeting the other ranks of the replica; None where
    /// there are none.
    pub fn link_time(&self) -> Option<LinkTime> {
        self.forward.link_time()
    }

    /// Tokens one sequence may hold: the configured context, or the whole KV cache if smaller.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// Forward and commit.
    fn compute(&mut self, step: &Step) {
        let (batch, rows) = batch(&self.flight, step);
        let stats = &mut self.flight.stats;
        stats.steps_total += 1;
        stats.batch_tokens = batch.tokens.len();
        stats.batch_sequences = batch.spans.len();
        stats.preemptions_total += step.preempted.len() as u64;
        let partial = step.work.iter().filter(|work| !work.reaches_end).count();
        stats.partial_prefills_total += partial as u64;
        let wanted: Vec<RowSampling<'_>> =
            rows.iter().map(|row| self.flight.wanted(row.sequence, row.position)).collect();
        match self.forward.forward_and_sample(&batch, &wanted, &mut self.sampler) {
            Ok(sampled) => {
                self.flight.scheduler.commit(step);
                for (row, sampled) in rows.iter().zip(sampled) {
                    self.flight.commit_row(row.sequence, row.position, sampled);
                }
            }
            Err(error) => {
                self.flight.stats.steps_failed_total += 1;
                let error = chain(&*error);
                for work in &step.work {
                    self.flight.fail(work.sequence.request, &error);
                }
            }
        }
        self.cost = self.forward.simulated_cost();
    }
}

/// A step's tokens, and whose logits its rows are.
fn batch(flight: &Flight, step: &Step) -> (Batch, Vec<Row>) {
    let mut batch = Batch::default();
    let mut rows = Vec::new();
    for work in &step.work {
        let Some((tokens, blocks)) = flight.scheduler.span(work) else { continue };
        let start = batch.tokens.len();
        batch.tokens.extend_from_slice(tokens);
        let tokens = start..batch.tokens.len();
        let (first, sequence) = (work.positions.start, work.sequence);
        for position in work.positions.clone() {
            let is_last = work.reaches_end && position + 1 == work.positions.end;
            if is_last || flight.wants_prompt_row(sequence, position) {
                batch.logit_rows.push(start + position - first);
                rows.push(Row { sequence, position });
            }
        }
        batch.spans.push(Span { tokens, position: first, blocks });
    }
    (batch, rows)
}

/// An error with its causes, in one line.
fn chain(error: &(dyn Error + 'static)) -> Arc<str> {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line.into()
}
