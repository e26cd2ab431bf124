//! What a rank computes, and with which of the others.

use std::error::Error;
use std::sync::mpsc::Receiver;

use naru_engine::{
    Batch, Collective, CollectiveError, Forward, LinkTime, RankDecoder, ShardedDecoder, serve_rank,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::links::{Lost, Mesh, Report};
use crate::metrics::RankSteps;

/// What computes takes from its group, and tells it.
pub(super) struct Bench {
    /// On their way to whoever computes, with their generations.
    pub(super) meshes: Receiver<(Mesh, u64)>,
    pub(super) reports: UnboundedSender<Report>,
}

impl Bench {
    /// Says that `rank` was lost, for `error` and what caused it.
    fn report(&self, generation: u64, rank: usize, error: &(dyn Error + 'static)) {
        let causes = std::iter::successors(Some(error), |&error| error.source());
        let reason = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        // What is made of it begins with who is lost.
        let said = format!("rank {rank} is lost, ");
        let reason = reason.strip_prefix(&said).unwrap_or(&reason).to_owned();
        // An error: the process is ending.
        let _ = self.reports.send(Report::Lost(generation, Lost { rank, reason }));
    }
}

/// Rank 0's model: computes with whichever ranks have met last.
pub(super) struct GroupForward {
    decoder: ShardedDecoder,
    bench: Bench,
    steps: RankSteps,
    generation: u64,
    is_apart: bool,
}

impl GroupForward {
    /// `decoder` must have been made with [`Apart`].
    pub(super) fn new(decoder: ShardedDecoder, bench: Bench, steps: RankSteps) -> Self {
        Self { decoder, bench, steps, generation: 0, is_apart: true }
    }
}

impl Forward for GroupForward {
    fn vocab_size(&self) -> usize {
        self.decoder.vocab_size()
    }

    fn forward(&mut self, batch: &Batch) -> Result<&[f32], Box<dyn Error + Send + Sync>> {
        if let Some((mesh, generation)) = self.bench.meshes.try_iter().last() {
            self.decoder.rejoin(Box::new(mesh));
            (self.generation, self.is_apart) = (generation, false);
        }
        if self.is_apart {
            return Err("the ranks are apart".into());
        }
        if let Err(error) = self.decoder.step(batch) {
            if self.decoder.has_parted() {
                self.is_apart = true;
                self.bench.report(self.generation, error.lost_rank().unwrap_or(0), &error);
            }
            return Err(error.into());
        }
        self.decoder.link_time().into_iter().for_each(|spent| self.steps.observe(spent));
        Ok(self.decoder.logits())
    }

    fn has_parted(&self) -> bool {
        self.is_apart
    }

    fn link_time(&self) -> Option<LinkTime> {
        self.decoder.link_time()
    }
}

/// What every rank but 0 runs, until its group has ended.
pub(super) fn serve(mut decoder: Box<dyn RankDecoder>, bench: &Bench, steps: &RankSteps) {
    let mine = decoder.shard().rank();
    for (mut mesh, generation) in &bench.meshes {
        let after_step = &mut |spent| steps.observe(spent);
        if let Err(error) = serve_rank(decoder.as_mut(), &mut mesh, after_step) {
            bench.report(generation, error.lost_rank().unwrap_or(mine), &error);
        }
    }
}

/// A collective of ranks that have not met.
pub(super) struct Apart;

impl Apart {
    fn error(rank: usize) -> CollectiveError {
        CollectiveError { rank, doing: "waiting for it", source: "the ranks are apart".into() }
    }
}

impl Collective for Apart {
    fn broadcast(&mut self, _: &[u8]) -> Result<(), CollectiveError> {
        Err(Self::error(1))
    }

    fn receive_broadcast(&mut self, _: &mut Vec<u8>) -> Result<(), CollectiveError> {
        Err(Self::error(0))
    }

    fn all_reduce_sum(&mut self, _: &mut [f64]) -> Result<(), CollectiveError> {
        Err(Self::error(1))
    }

    fn send(&mut self, to: usize, _: &mut Vec<f32>) -> Result<(), CollectiveError> {
        Err(Self::error(to))
    }

    fn receive(&mut self, from: usize, _: &mut Vec<f32>) -> Result<(), CollectiveError> {
        Err(Self::error(from))
    }

    fn abort(&mut self, _: &str) {}
}
