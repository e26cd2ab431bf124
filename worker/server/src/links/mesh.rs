//! The ranks of a replica as processes, joined by a connection between each two.
//!
//! A sum of few values is one exchange: each rank gives all it has to the others of its stage, and
//! each adds in the order of ranks. A sum of many values among more than two ranks is two: each
//! adds one part of them for all, then gives the sum of its part to the others; what crosses the
//! links grows no more with the number of ranks (reduce-scatter and all-gather: Thakur,
//! Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", 2005).

use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use naru_engine::{Collective, CollectiveError, LinkTime, Parallelism};
use zerocopy::IntoBytes;

use super::wire::{Kind, Wire, WireError};

/// Values of one message of a sum between two: what was sealed for one is added out of a core's
/// cache while the next is under way. Found by `naru bench links`: half and a quarter are slower.
const PIECE_VALUES: usize = 32 << 10;
/// Values from which a sum among more than two ranks is made in two exchanges.
const PARTED_VALUES_MIN: usize = 8 << 10;

const ADDING: &str = "adding with the ranks of a stage";
const PLANNING: &str = "passing on a plan";
const PASSING: &str = "passing on values";

/// One rank's connections to all others.
pub(crate) struct Mesh {
    rank: usize,
    parallelism: Parallelism,
    /// By rank; none to this one.
    wires: Vec<Option<Wire>>,
    fate: Arc<Fate>,
    /// What another rank has of a sum.
    others: Vec<f64>,
    /// What this one has of it.
    mine: Vec<f64>,
    /// When the plan of this step was sent, or had come.
    began: Option<Instant>,
    spent: LinkTime,
}

/// Why the ranks parted, as far as is known here, and what makes them.
#[derive(Default)]
pub(crate) struct Fate {
    lost: OnceLock<(usize, String)>,
    sockets: OnceLock<Vec<Arc<TcpStream>>>,
}

impl Fate {
    /// Ends every call that waits for another rank, now and later, for the loss of `rank`. The
    /// first reason stays.
    pub(crate) fn part(&self, rank: usize, reason: &str) {
        // The first reason is the cause, what comes after it are consequences.
        let _ = self.lost.set((rank, reason.to_owned()));
        for socket in self.sockets.get().into_iter().flatten() {
            // An error: it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// The rank that was lost first, and why.
    pub(crate) fn lost(&self) -> Option<&(usize, String)> {
        self.lost.get()
    }
}

impl Mesh {
    /// The connections of `rank` to all others, by their rank.
    pub(super) fn new(rank: usize, parallelism: Parallelism, wires: Vec<Option<Wire>>) -> Self {
        debug_assert_eq!(wires.len(), parallelism.ranks(), "a wire for each rank but one");
        let fate = Arc::new(Fate::default());
        let sockets = wires.iter().flatten().map(Wire::cutter).collect();
        assert!(fate.sockets.set(sockets).is_ok(), "a new fate knows of no sockets");
        let (others, mine, spent) = (Vec::new(), Vec::new(), LinkTime::default());
        Self { rank, parallelism, wires, fate, others, mine, began: None, spent }
    }

    /// What can part the ranks from outside.
    pub(crate) fn fate(&self) -> Arc<Fate> {
        Arc::clone(&self.fate)
    }

    /// Does something on the wire to `rank`, and measures it.
    fn with<T>(
        &mut self,
        rank: usize,
        doing: &'static str,
        act: impl FnOnce(&mut Wire) -> Result<T, WireError>,
    ) -> Result<T, CollectiveError> {
        let Some(wire) = self.wires.get_mut(rank).and_then(Option::as_mut) else {
            let source = "there is no connection to it".into();
            return Err(CollectiveError { rank, doing, source });
        };
        let done = act(wire);
        self.spent.wait += std::mem::take(&mut wire.waited);
        done.map_err(|error| self.lost(rank, doing, error))
    }

    /// The cause, where it is known; else what was found on the wire.
    fn lost(&self, rank: usize, doing: &'static str, error: WireError) -> CollectiveError {
        match self.fate.lost() {
            Some((rank, reason)) => {
                CollectiveError { rank: *rank, doing, source: reason.clone().into() }
            }
            None => CollectiveError { rank, doing, source: Box::new(error) },
        }
    }

    /// Runs `act`, and counts what of it was not waiting as the links' time.
    fn timed<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        let (begin, waited) = (Instant::now(), self.spent.wait);
        let done = act(self);
        self.spent.link += begin.elapsed().saturating_sub(self.spent.wait - waited);
        done
    }

    /// Gives values to a rank.
    fn give(
        &mut self,
        rank: usize,
        doing: &'static str,
        values: &[u8],
    ) -> Result<(), CollectiveError> {
        self.spent.bytes += values.len() as u64;
        self.with(rank, doing, |wire| wire.send(Kind::Values, values))
    }

    /// Takes as many values as there is room for.
    fn take(
        &mut self,
        rank: usize,
        doing: &'static str,
        values: &mut [u8],
    ) -> Result<(), CollectiveError> {
        self.with(rank, doing, |wire| wire.receive(Kind::Values, values))
    }

    /// Adds what each rank of the stage has of `values[part]`, in the order of ranks.
    fn add(&mut self, values: &mut [f64], part: Range<usize>) -> Result<(), CollectiveError> {
        let sum = &mut values[part];
        let (mut mine, mut others) =
            (std::mem::take(&mut self.mine), std::mem::take(&mut self.others));
        mine.clear();
        mine.extend_from_slice(sum);
        others.resize(sum.len(), 0.0);
        sum.fill(0.0);
        let mut done = Ok(());
        for rank in self.parallelism.stage_ranks(self.rank) {
            if rank != self.rank {
                done = self.take(rank, ADDING, others.as_mut_bytes());
            }
            if done.is_err() {
                break;
            }
            let part = if rank == self.rank { &mine } else { &others };
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        (self.mine, self.others) = (mine, others);
        done
    }

    fn add_at_once(&mut self, values: &mut [f64]) -> Result<(), CollectiveError> {
        let length = values.len();
        let piece = |start: usize| start.min(length)..(start + PIECE_VALUES).min(length);
        self.give_to_all(&values[piece(0)])?;
        for start in (0..length.max(1)).step_by(PIECE_VALUES) {
            // The next is on its way while this one is added.
            let next = piece(start + PIECE_VALUES);
            if !next.is_empty() {
                self.give_to_all(&values[next])?;
            }
            self.add(values, piece(start))?;
        }
        Ok(())
    }

    fn give_to_all(&mut self, values: &[f64]) -> Result<(), CollectiveError> {
        for rank in self.others_of_stage() {
            self.give(rank, ADDING, values.as_bytes())?;
        }
        Ok(())
    }

    fn add_in_parts(&mut self, values: &mut [f64]) -> Result<(), CollectiveError> {
        let ranks = self.parallelism.tensor();
        let first = self.parallelism.stage_ranks(self.rank).start;
        let size = values.len().div_ceil(ranks);
        let part = |rank: usize| {
            let start = ((rank - first) * size).min(values.len());
            start..(start + size).min(values.len())
        };
        let parts: Vec<_> = self.parallelism.stage_ranks(self.rank).map(part).collect();
        for rank in self.others_of_stage() {
            self.give(rank, ADDING, values[parts[rank - first].clone()].as_bytes())?;
        }
        let mine = parts[self.rank - first].clone();
        self.add(values, mine.clone())?;
        self.give_to_all(&values[mine])?;
        for rank in self.others_of_stage() {
            self.take(rank, ADDING, values[parts[rank - first].clone()].as_mut_bytes())?;
        }
        Ok(())
    }

    fn others_of_stage(&self) -> Vec<usize> {
        self.parallelism.stage_ranks(self.rank).filter(|rank| *rank != self.rank).collect()
    }
}

impl Collective for Mesh {
    fn broadcast(&mut self, message: &[u8]) -> Result<(), CollectiveError> {
        self.began = Some(Instant::now());
        self.timed(|mesh| {
            for rank in 1..mesh.parallelism.ranks() {
                mesh.with(rank, PLANNING, |wire| wire.send(Kind::Broadcast, message))?;
            }
            Ok(())
        })
    }

    fn receive_broadcast(&mut self, message: &mut Vec<u8>) -> Result<(), CollectiveError> {
        let waited = self.spent.wait;
        let done = self.with(0, PLANNING, |wire| wire.receive_any(Kind::Broadcast, message));
        // Until rank 0 has something to do there is nothing to wait for.
        self.spent.wait = waited;
        self.began = Some(Instant::now());
        done
    }

    fn all_reduce_sum(&mut self, values: &mut [f64]) -> Result<(), CollectiveError> {
        self.timed(|mesh| match mesh.parallelism.tensor() {
            1 => Ok(()),
            ranks if ranks > 2 && values.len() >= PARTED_VALUES_MIN => mesh.add_in_parts(values),
            _ => mesh.add_at_once(values),
        })
    }

    fn send(&mut self, to: usize, values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        self.timed(|mesh| mesh.give(to, PASSING, values.as_bytes()))
    }

    fn receive(&mut self, from: usize, values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        self.timed(|mesh| mesh.take(from, PASSING, values.as_mut_bytes()))
    }

    fn abort(&mut self, reason: &str) {
        for wire in self.wires.iter_mut().flatten() {
            wire.abort(reason);
        }
        self.fate.part(self.rank, reason);
    }

    fn take_link_time(&mut self) -> LinkTime {
        let step = self.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        LinkTime { step, ..std::mem::take(&mut self.spent) }
    }
}
