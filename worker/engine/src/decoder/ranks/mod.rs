//! The ranks of a replica, step by step.
//!
//! ```text
//! rank 0       schedule ─▶ plan ──▶ pieces through its part ──▶ columns of logits ─▶ sample
//!                           │ broadcast                              ▲
//! other ranks             read ──▶ pieces through their parts ───────┘ from the last stage
//! ```
//!
//! Rank 0 is what an [`Engine`](crate::Engine) drives: scheduling and sampling happen there and
//! nowhere else, so both stay as deterministic as on one rank. All ranks hold the same block
//! numbers, each with the keys and values of its own layers and heads. A step is over when rank 0
//! has heard of every piece from every rank of the last stage, also where no logits are wanted.
//!
//! What cannot be is refused at rank 0 before anybody hears of it. After that a failure on any rank
//! parts them all: whoever fails tells the others, and none of their values is used again.

mod groups;
mod micro;
mod plan;

use std::error::Error;
use std::mem;
use std::ops::Range;

use naru_kernels::cuda::Device;
use thiserror::Error as ThisError;

pub use plan::PlanError;

use super::{Collective, CollectiveError, LinkTime, Shard, StepError};
use crate::config::ModelConfig;
use crate::engine::{Batch, Forward};
use plan::{Plan, PlanReader, PlanWriter};

/// Tokens of a piece: with fewer, weights are read for too few products and a stage gains nothing
/// by beginning earlier.
const PIECE_TOKENS_MIN: usize = 32;

/// The part of a model that one rank holds, with its keys and values, on whatever computes it.
pub trait RankDecoder: Send {
    /// The whole model's configuration.
    fn config(&self) -> &ModelConfig;

    /// The part of it that is here.
    fn shard(&self) -> &Shard;

    /// Columns of the logits that `rank`, one of the last stage, makes.
    fn vocabulary_part_of(&self, rank: usize) -> Range<usize>;

    /// Whether [`compute`](Self::compute) can compute this, whole or in pieces. Errors: why not.
    fn check(&self, batch: &Batch) -> Result<(), StepError>;

    /// Computes `piece` together with the other ranks, writes keys and values of each token into
    /// its span's blocks, and returns logits `[logit_rows, vocabulary_part]`; on a stage that is
    /// not the last, none. Errors: a piece that cannot be, or the other ranks are gone; its tokens
    /// then count as not computed.
    fn compute(
        &mut self,
        piece: &Batch,
        collective: &mut dyn Collective,
    ) -> Result<&[f32], StepError>;

    /// Takes the logits of the last piece, and leaves `values` to be written over by the next.
    fn take_logits(&mut self, values: &mut Vec<f32>);

    /// The device that computes, if it is one.
    fn device(&mut self) -> Option<&mut dyn Device> {
        None
    }
}

/// Rank 0 of a replica of several: what an engine drives.
pub struct ShardedDecoder {
    decoder: Box<dyn RankDecoder>,
    collective: Box<dyn Collective>,
    piece_tokens_min: usize,
    plans: PlanWriter,
    message: Vec<u8>,
    /// Rows of one piece and the columns of one rank.
    part: Vec<f32>,
    /// `[logit_rows, vocabulary]`.
    logits: Vec<f32>,
    has_parted: bool,
    /// The ranks have met and not computed anything yet.
    is_new: bool,
    link_time: LinkTime,
}

/// Why a rank cannot go on.
#[derive(Debug, ThisError)]
pub enum RankError {
    /// The others could not be met.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// What rank 0 said is no plan.
    #[error("reading the plan of a step")]
    Plan(#[source] PlanError),
    /// The step could not be computed here.
    #[error("computing the step")]
    Step(#[source] StepError),
}

impl RankError {
    /// The rank that could not be met, if that is what is wrong.
    pub fn lost_rank(&self) -> Option<usize> {
        match self {
            Self::Collective(error) => Some(error.rank),
            Self::Plan(_) => None,
            Self::Step(error) => error.lost_rank(),
        }
    }
}

impl ShardedDecoder {
    /// `decoder`, which must hold the shard of rank 0; every other rank must have as many blocks of
    /// keys and values.
    pub fn new(decoder: Box<dyn RankDecoder>, collective: Box<dyn Collective>) -> Self {
        assert_eq!(decoder.shard().rank(), 0, "the engine is at rank 0");
        Self {
            decoder,
            collective,
            piece_tokens_min: PIECE_TOKENS_MIN,
            plans: PlanWriter::default(),
            message: Vec::new(),
            part: Vec::new(),
            logits: Vec::new(),
            has_parted: false,
            is_new: true,
            link_time: LinkTime::default(),
        }
    }

    /// Meets the other ranks again, who have parted, over new connections. Keys and values that the
    /// others no longer have are for the engine to forget ([`Engine::restart`](crate::Engine)).
    pub fn rejoin(&mut self, collective: Box<dyn Collective>) {
        self.collective = collective;
        self.plans = PlanWriter::default();
        (self.has_parted, self.is_new) = (false, true);
    }

    /// With another least number of tokens in a piece of a step, at least 1.
    #[must_use]
    pub fn with_piece_tokens_min(mut self, piece_tokens_min: usize) -> Self {
        self.piece_tokens_min = piece_tokens_min;
        self
    }

    /// Logits of the last step, `[logit_rows, vocabulary]`; of one that failed, of no use.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The part of the model at rank 0.
    pub fn decoder(&self) -> &dyn RankDecoder {
        self.decoder.as_ref()
    }

    /// Computes `batch` with the other ranks; returns the logits, `[logit_rows, vocabulary]`.
    /// Errors: it cannot be, or the ranks have parted ([`has_parted`](Forward::has_parted)).
    pub fn step(&mut self, batch: &Batch) -> Result<&[f32], StepError> {
        self.logits.clear();
        self.link_time = LinkTime::default();
        if self.has_parted {
            return Err(StepError::Parted);
        }
        self.decoder.check(batch)?;
        if batch.tokens.is_empty() {
            return Ok(&self.logits);
        }
        let stages = self.decoder.shard().parallelism().pipeline();
        let ends = micro::ends(batch.tokens.len(), stages, self.piece_tokens_min);
        self.plans.step(batch, &ends, &mut self.message).map_err(StepError::Plan)?;
        // Not even a panic leaves ranks that are in the midst of a step to go on with the next.
        self.has_parted = true;
        let done = self.compute(batch, &ends);
        self.link_time = self.collective.take_link_time();
        if let Err(error) = done {
            self.collective.abort(&error.to_string());
            return Err(error);
        }
        self.has_parted = false;
        Ok(&self.logits)
    }

    /// Everything after the plan is written; an error parts the ranks.
    fn compute(&mut self, batch: &Batch, ends: &[usize]) -> Result<(), StepError> {
        let Self { decoder, collective, message, part, logits, .. } = self;
        if mem::take(&mut self.is_new)
            && let Some(names) = groups::ask(decoder.as_mut(), collective.as_mut())?
        {
            collective.broadcast(&PlanWriter::groups(&names))?;
            groups::join(decoder.as_mut(), &names)?;
        }
        collective.broadcast(message)?;
        let vocabulary = decoder.config().vocabulary;
        logits.resize(batch.logit_rows.len() * vocabulary, 0.0);
        let columns = decoder.vocabulary_part_of(0);
        let (mut first, mut rows_of_pieces) = (0, Vec::with_capacity(ends.len()));
        for piece in micro::pieces(batch, ends) {
            let rows = first..first + piece.logit_rows.len();
            let mine = decoder.compute(&piece, collective.as_mut())?;
            let out = &mut logits[rows.start * vocabulary..rows.end * vocabulary];
            place(mine, out, vocabulary, columns.clone());
            first = rows.end;
            rows_of_pieces.push(rows);
        }
        let last_stage = decoder.shard().parallelism().last_stage_ranks();
        for rows in rows_of_pieces {
            let out = &mut logits[rows.start * vocabulary..rows.end * vocabulary];
            for rank in last_stage.clone().filter(|rank| *rank != 0) {
                let columns = decoder.vocabulary_part_of(rank);
                part.resize(rows.len() * columns.len(), 0.0);
                collective.receive(rank, part)?;
                place(part, out, vocabulary, columns);
            }
        }
        Ok(())
    }
}

/// Writes a rank's columns of some rows into `out`, `[rows, vocabulary]`; a rank of another stage
/// has no columns.
fn place(part: &[f32], out: &mut [f32], vocabulary: usize, columns: Range<usize>) {
    if part.is_empty() {
        return;
    }
    let rows = part.chunks_exact(columns.len()).zip(out.chunks_exact_mut(vocabulary));
    rows.for_each(|(part, out)| out[columns.clone()].copy_from_slice(part));
}

impl Forward for ShardedDecoder {
    fn vocab_size(&self) -> usize {
        self.decoder.config().vocabulary
    }

    fn forward(&mut self, batch: &Batch) -> Result<&[f32], Box<dyn Error + Send + Sync>> {
        Ok(self.step(batch)?)
    }

    fn has_parted(&self) -> bool {
        self.has_parted
    }

    fn link_time(&self) -> Option<LinkTime> {
        Some(self.link_time)
    }
}

impl Drop for ShardedDecoder {
    /// Lets the other ranks end.
    fn drop(&mut self) {
        if !self.has_parted {
            PlanWriter::stop(&mut self.message);
            // Ranks that cannot be reached will find out that this one is gone.
            drop(self.collective.broadcast(&self.message));
        }
    }
}

/// Computes what rank 0 plans on any other rank, until rank 0 ends; `after_step` is told what each
/// step's meetings took. `decoder` must have as many blocks of keys and values as rank 0's. Errors:
/// the ranks have parted, and the others were told if the cause was here.
pub fn serve_rank(
    decoder: &mut dyn RankDecoder,
    collective: &mut dyn Collective,
    after_step: &mut dyn FnMut(LinkTime),
) -> Result<(), RankError> {
    let served = serve(decoder, collective, after_step);
    if let Err(error) = &served {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        collective.abort(&format!("{error}{cause}"));
    }
    served
}

/// Reads messages as a rank reads plans, one after the other, and computes nothing; returns how many
/// were steps. Errors: one is no plan, or not the next.
pub fn read_plans<'a>(messages: impl IntoIterator<Item = &'a [u8]>) -> Result<usize, PlanError> {
    let (mut plans, mut steps) = (PlanReader::default(), 0);
    for message in messages {
        match plans.read(message)? {
            Plan::Step { .. } => steps += 1,
            Plan::Groups { .. } => {}
            Plan::Stop => break,
        }
    }
    Ok(steps)
}

fn serve(
    decoder: &mut dyn RankDecoder,
    collective: &mut dyn Collective,
    after_step: &mut dyn FnMut(LinkTime),
) -> Result<(), RankError> {
    let (mut plans, mut message, mut part) = (PlanReader::default(), Vec::new(), Vec::new());
    let makes_logits = decoder.shard().is_last_stage();
    groups::answer(decoder, collective).map_err(RankError::Step)?;
    loop {
        collective.receive_broadcast(&mut message)?;
        let (batch, ends) = match plans.read(&message).map_err(RankError::Plan)? {
            Plan::Stop => return Ok(()),
            Plan::Groups { names } => {
                groups::join(decoder, &names).map_err(RankError::Step)?;
                continue;
            }
            Plan::Step { batch, ends } => (batch, ends),
        };
        for piece in micro::pieces(&batch, &ends) {
            decoder.compute(&piece, collective).map_err(RankError::Step)?;
            if makes_logits {
                decoder.take_logits(&mut part);
                collective.send(0, &mut part)?;
            }
        }
        after_step(collective.take_link_time());
    }
}
