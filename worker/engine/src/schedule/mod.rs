//! Which tokens of which sequences the next step processes.
//!
//! Every step, in this order:
//! 1. sequences that need one token (decodes), in arrival order; where blocks run out the latest
//!    arrival is preempted: it loses its blocks and is computed again later;
//! 2. running sequences that need more (prefill), in arrival order, in chunks that fill the budget;
//! 3. waiting sequences in arrival order, if all their known tokens fit, unless somebody was
//!    preempted in this step.
//!
//! Nobody starves: decodes always fit the budget, the oldest sequence is never preempted, and no
//! later arrival overtakes one that waits for blocks.

mod sequence;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::kv::{BlockPool, BlockTable, blocks_for};

use sequence::Running;
pub(crate) use sequence::{Sequence, SequenceId};

/// What bounds a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) max_sequences: usize,
    pub(crate) max_batch_tokens: usize,
}

/// One step as data.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// What to compute, at most one entry for a sequence.
    pub(crate) work: Vec<Work>,
    /// Who left the queue in this step.
    pub(crate) admitted: Vec<Admitted>,
    /// Who lost their blocks and went back to the queue.
    pub(crate) preempted: Vec<SequenceId>,
}

/// Tokens of one sequence to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) sequence: SequenceId,
    /// Positions in the sequence; starts where the computed ones end.
    pub(crate) positions: Range<usize>,
    /// Whether these are the last known tokens, after which the next is sampled.
    pub(crate) reaches_end: bool,
}

/// A sequence that starts (or starts again) to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) sequence: SequenceId,
    /// Tokens that were in the cache.
    pub(crate) cached_tokens: usize,
}

/// The queue, the running sequences and their blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    bounds: Bounds,
    pool: BlockPool,
    running: BTreeMap<SequenceId, Running>,
    waiting: BTreeMap<SequenceId, Sequence>,
}

impl Scheduler {
    pub(crate) fn new(bounds: Bounds, pool: BlockPool) -> Self {
        assert!(bounds.max_sequences <= bounds.max_batch_tokens, "decodes would not fit a step");
        Self { bounds, pool, running: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// Queues a sequence. It must be new, and its blocks at its longest must fit the pool.
    pub(crate) fn admit(&mut self, id: SequenceId, sequence: Sequence) {
        let fits = blocks_for(sequence.tokens.len()) <= self.pool.total();
        assert!(fits, "{id:?} was admitted though it can never run");
        let before = self.waiting.insert(id, sequence);
        assert!(before.is_none() && !self.running.contains_key(&id), "{id:?} was admitted twice");
    }

    /// Decides the next step and takes the blocks it needs. Empty only if nothing waits or runs.
    pub(crate) fn schedule(&mut self) -> Step {
        let mut step = Step::default();
        let mut budget = self.bounds.max_batch_tokens;
        self.schedule_decodes(&mut step, &mut budget);
        self.schedule_prefills(&mut step, &mut budget);
        if step.preempted.is_empty() {
            self.schedule_waiting(&mut step, &mut budget);
        }
        let scheduled: usize = step.work.iter().map(|work| work.positions.len()).sum();
        assert_eq!(scheduled + budget, self.bounds.max_batch_tokens, "the budget does not add up");
        step
    }

    /// Records that a step was computed: its blocks may be reused from now on.
    pub(crate) fn commit(&mut self, step: &Step) {
        for work in &step.work {
            if let Some(running) = self.running.get_mut(&work.sequence) {
                running.computed = work.positions.end;
                let computed = &running.sequence.tokens[..running.computed];
                running.table.seal(&mut self.pool, computed);
            }
        }
    }

    /// Appends a sampled token to a sequence whose every token is computed.
    pub(crate) fn append(&mut self, id: SequenceId, token: u32) {
        if let Some(running) = self.running.get_mut(&id) {
            assert_eq!(running.remaining(), 0, "{id:?} got a token before it was computed");
            running.sequence.tokens.push(token);
        }
    }

    /// A sequence has all the prompt logits it wanted: it may reuse and be chunked like any other.
    pub(crate) fn prompt_rows_done(&mut self, id: SequenceId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.sequence.wants_prompt_rows = false;
        }
    }

    /// Forgets a sequence and gives its blocks back; an unknown one is ignored.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        self.waiting.remove(&id);
        if let Some(running) = self.running.remove(&id) {
            running.table.release(&mut self.pool);
        }
    }

    /// Tokens of a running sequence at `positions`, and its block table.
    pub(crate) fn span(&self, work: &Work) -> Option<(&[u32], Vec<u32>)> {
        let running = self.running.get(&work.sequence)?;
        let tokens = running.sequence.tokens.get(work.positions.clone())?;
        Some((tokens, running.table.ids()))
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Frees what is kept of sequences that are gone: it will not be found again.
    pub(crate) fn forget_prefixes(&mut self) {
        self.pool.forget_released();
    }

    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    fn schedule_decodes(&mut self, step: &mut Step, budget: &mut usize) {
        let decodes: Vec<SequenceId> = self
            .running
            .iter()
            .filter(|(_, running)| running.remaining() == 1)
            .map(|(id, _)| *id)
            .collect();
        for id in decodes {
            // Whoever is missing here was preempted for an older one.
            while let Some(running) = self.running.get_mut(&id) {
                if running.table.reserve(&mut self.pool, running.computed + 1) {
                    step.work.push(running.work(id, 1));
                    *budget -= 1;
                    break;
                }
                self.preempt_latest(step);
            }
        }
    }

    /// Needs no blocks: a sequence that runs got blocks for all the tokens it had.
    fn schedule_prefills(&mut self, step: &mut Step, budget: &mut usize) {
        for (id, running) in &self.running {
            let tokens = running.chunk(*budget);
            if running.remaining() > 1 && tokens > 0 {
                step.work.push(running.work(*id, tokens));
                *budget -= tokens;
            }
        }
    }

    fn schedule_waiting(&mut self, step: &mut Step, budget: &mut usize) {
        let candidates: Vec<SequenceId> = self.waiting.keys().copied().collect();
        for id in candidates {
            if *budget == 0 || self.running.len() >= self.bounds.max_sequences {
                return;
            }
            if self.waits_for_sibling(id) {
                continue;
            }
            let Some(running) = self.start(id) else { return };
            let tokens = running.chunk(*budget);
            step.work.push(running.work(id, tokens));
            step.admitted.push(Admitted { sequence: id, cached_tokens: running.computed });
            *budget -= tokens;
            self.running.insert(id, running);
        }
    }

    /// Whether another choice of the same request is computing the prompt that this one would
    /// compute too: it will find the blocks in the cache instead.
    fn waits_for_sibling(&self, id: SequenceId) -> bool {
        let siblings = SequenceId { choice: 0, ..id }..id;
        self.running.range(siblings).any(|(_, running)| running.computed < running.sequence.shared)
    }

    /// Takes a sequence off the queue with blocks for all its tokens. None: too few blocks; it
    /// stays. One block for each running sequence is left, lest the next step preempt somebody.
    fn start(&mut self, id: SequenceId) -> Option<Running> {
        let sequence = self.waiting.get(&id)?;
        let mut table = match sequence.wants_prompt_rows {
            true => BlockTable::empty(sequence.root),
            false => BlockTable::open(&mut self.pool, sequence.root, &sequence.tokens),
        };
        let tokens = sequence.tokens.len();
        let enough = table.missing(tokens) + self.running.len() <= self.pool.available();
        if !enough || !table.reserve(&mut self.pool, tokens) {
            table.release(&mut self.pool);
            return None;
        }
        let computed = table.sealed_tokens();
        self.waiting.remove(&id).map(|sequence| Running { sequence, computed, table })
    }

    fn preempt_latest(&mut self, step: &mut Step) {
        assert!(self.running.len() > 1, "the oldest sequence does not fit the KV cache alone");
        if let Some((id, running)) = self.running.pop_last() {
            running.table.release(&mut self.pool);
            self.waiting.insert(id, running.sequence);
            step.preempted.push(id);
        }
    }
}

#[cfg(test)]
impl Scheduler {
    /// The pool is sound and holds exactly the references of the running sequences.
    pub(crate) fn check(&self) {
        let held: usize = self.running.values().map(|running| running.table.ids().len()).sum();
        assert_eq!(self.pool.check(), held, "references leaked");
        assert!(self.running.len() <= self.bounds.max_sequences);
    }
}
