//! Ranks that are threads of one process, and meet in its memory.
//!
//! A sum needs one meeting: each rank writes what it has into a place of its own, they wait for
//! each other, and each adds all places in the order of ranks. The places change with every sum,
//! so that nobody writes where another still reads: for the next sum but one it must first have
//! met everybody who was reading.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use super::{Collective, CollectiveError, LinkTime, MESSAGES_MAX};
use crate::decoder::Parallelism;

/// How long a rank looks for the others before it sleeps: they come in microseconds of each other,
/// and waking a thread takes as long.
const SPIN_PAUSES_MAX: u32 = 1_000;
/// Plans on their way: rank 0 waits for the end of each step, so a step and the end of all.
const PLANS_MAX: usize = 2;
/// Buffers kept for sending; more would be kept for ever by a rank that only receives.
const SPARES_MAX: usize = 2;

/// Reads a monotonic clock of whoever starts the threads; the engine itself reads none.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// One rank's side of a replica whose ranks are threads.
pub struct ThreadCollective {
    rank: usize,
    parallelism: Parallelism,
    group: Arc<Group>,
    /// Sums so far.
    round: usize,
    links: Links,
    spares: Vec<Vec<f32>>,
    clock: Clock,
    /// When the plan of this step was sent, or had come.
    began: Option<Duration>,
    spent: LinkTime,
}

/// Channels by the rank at their other end; there is none to a rank itself.
#[derive(Default)]
struct Links {
    /// To every rank, of rank 0 alone.
    plans_out: Vec<SyncSender<Arc<[u8]>>>,
    plans_in: Option<Receiver<Arc<[u8]>>>,
    out: Vec<Option<SyncSender<Vec<f32>>>>,
    inward: Vec<Option<Receiver<Vec<f32>>>>,
}

struct Group {
    /// The rank that was lost first, and why.
    lost: OnceLock<(usize, String)>,
    stages: Vec<Stage>,
}

/// Where the ranks of one stage add.
struct Stage {
    places: [Vec<RwLock<Vec<f64>>>; 2],
    /// Arrivals of all ranks at all meetings.
    arrived: AtomicUsize,
    parked: AtomicUsize,
    gate: Mutex<()>,
    all_came: Condvar,
}

impl ThreadCollective {
    /// Every rank's side, in the order of ranks, of a replica of `parallelism`. `clock` measures.
    pub fn group(parallelism: Parallelism, clock: &Clock) -> Vec<Self> {
        let stages = (0..parallelism.pipeline()).map(|_| Stage::new(parallelism.tensor()));
        let group = Arc::new(Group { lost: OnceLock::new(), stages: stages.collect() });
        let of_rank = |(rank, links)| Self {
            rank,
            parallelism,
            group: Arc::clone(&group),
            round: 0,
            links,
            spares: Vec::new(),
            clock: Arc::clone(clock),
            began: None,
            spent: LinkTime::default(),
        };
        Links::between(parallelism.ranks()).into_iter().enumerate().map(of_rank).collect()
    }

    /// The rank whose side this is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// An error about the rank that was lost first, or else about `rank`.
    fn lost(&self, rank: usize, doing: &'static str) -> CollectiveError {
        let known = self.group.lost.get().filter(|(lost, _)| *lost != self.rank);
        let (rank, reason) = match known {
            Some((lost, reason)) => (*lost, reason.clone()),
            None => (rank, "this rank or that one has ended".to_owned()),
        };
        CollectiveError { rank, doing, source: reason.into() }
    }

    /// Wakes everybody who waits, for `reason`.
    fn part(&mut self, reason: &str) {
        self.links = Links::default();
        if self.group.lost.set((self.rank, reason.to_owned())).is_ok() {
            self.group.stages.iter().for_each(Stage::wake);
        }
    }
}

impl Collective for ThreadCollective {
    fn broadcast(&mut self, message: &[u8]) -> Result<(), CollectiveError> {
        const DOING: &str = "sending a plan";
        if self.links.plans_out.len() + 1 < self.parallelism.ranks() {
            return Err(self.lost(self.rank, DOING));
        }
        self.began = Some((self.clock)());
        let message: Arc<[u8]> = message.into();
        for (index, rank) in self.links.plans_out.iter().enumerate() {
            let sent = rank.try_send(Arc::clone(&message));
            sent.map_err(|error| refused(&error, || self.lost(index + 1, DOING), index + 1))?;
        }
        Ok(())
    }

    fn receive_broadcast(&mut self, message: &mut Vec<u8>) -> Result<(), CollectiveError> {
        let next = self.links.plans_in.as_ref().and_then(|plans| plans.recv().ok());
        let next = next.ok_or_else(|| self.lost(0, "receiving a plan"))?;
        self.began = Some((self.clock)());
        message.clear();
        message.extend_from_slice(&next);
        Ok(())
    }

    fn all_reduce_sum(&mut self, values: &mut [f64]) -> Result<(), CollectiveError> {
        const DOING: &str = "adding with the ranks of a stage";
        let begin = (self.clock)();
        let (mine, ranks) = (self.parallelism.tensor_rank(self.rank), self.parallelism.tensor());
        let stage = &self.group.stages[self.parallelism.stage(self.rank)];
        let places = &stage.places[self.round % 2];
        {
            let mut place = places[mine].write().unwrap_or_else(PoisonError::into_inner);
            place.clear();
            place.extend_from_slice(values);
        }
        let waits = (self.clock)();
        let all_came = stage.meet(&self.group.lost, (self.round + 1) * ranks);
        let waited = (self.clock)() - waits;
        self.round += 1;
        if !all_came {
            return Err(self.lost(self.rank, DOING));
        }
        values.fill(0.0);
        let first = self.parallelism.stage_ranks(self.rank).start;
        for (index, place) in places.iter().enumerate() {
            let place = place.read().unwrap_or_else(PoisonError::into_inner);
            if place.len() != values.len() {
                let source = format!("it has {} values, here are {}", place.len(), values.len());
                return Err(CollectiveError {
                    rank: first + index,
                    doing: DOING,
                    source: source.into(),
                });
            }
            values.iter_mut().zip(&*place).for_each(|(sum, value)| *sum += value);
        }
        self.spent.wait += waited;
        self.spent.link += (self.clock)() - begin - waited;
        self.spent.bytes += ((ranks - 1) * size_of_val(values)) as u64;
        Ok(())
    }

    fn send(&mut self, to: usize, values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        const DOING: &str = "sending values";
        let bytes = size_of_val(values.as_slice()) as u64;
        let link = self.links.out.get(to).and_then(Option::as_ref);
        let link = link.ok_or_else(|| self.lost(to, DOING))?;
        let message = mem::replace(values, self.spares.pop().unwrap_or_default());
        let sent = link.try_send(message);
        sent.map_err(|error| refused(&error, || self.lost(to, DOING), to))?;
        self.spent.bytes += bytes;
        Ok(())
    }

    fn receive(&mut self, from: usize, values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        let begin = (self.clock)();
        let link = self.links.inward.get(from).and_then(Option::as_ref);
        let message = link.and_then(|link| link.recv().ok());
        let message = message.ok_or_else(|| self.lost(from, "receiving values"))?;
        self.spent.wait += (self.clock)() - begin;
        if message.len() != values.len() {
            let source = format!("it sent {} values for {}", message.len(), values.len());
            let doing = "receiving values";
            return Err(CollectiveError { rank: from, doing, source: source.into() });
        }
        let spare = mem::replace(values, message);
        if self.spares.len() < SPARES_MAX {
            self.spares.push(spare);
        }
        Ok(())
    }

    fn abort(&mut self, reason: &str) {
        self.part(reason);
    }

    fn take_link_time(&mut self) -> LinkTime {
        let now = (self.clock)();
        let step = self.began.take().map_or(Duration::ZERO, |began| now - began);
        LinkTime { step, ..mem::take(&mut self.spent) }
    }
}

impl Drop for ThreadCollective {
    fn drop(&mut self) {
        self.part(if thread::panicking() { "its thread panicked" } else { "it has ended" });
    }
}

/// Why a message was not taken.
fn refused<T>(
    error: &TrySendError<T>,
    lost: impl FnOnce() -> CollectiveError,
    rank: usize,
) -> CollectiveError {
    match error {
        TrySendError::Disconnected(_) => lost(),
        TrySendError::Full(_) => {
            let source = "it takes no more messages".into();
            CollectiveError { rank, doing: "sending values", source }
        }
    }
}

impl Links {
    /// Of `ranks` ranks to each other.
    fn between(ranks: usize) -> Vec<Self> {
        let mut links: Vec<Self> = (0..ranks).map(|_| Self::default()).collect();
        for rank in 1..ranks {
            let (sender, receiver) = sync_channel(PLANS_MAX);
            links[0].plans_out.push(sender);
            links[rank].plans_in = Some(receiver);
        }
        for from in 0..ranks {
            for to in 0..ranks {
                let channel = (from != to).then(|| sync_channel(MESSAGES_MAX));
                let (sender, receiver) = channel.unzip();
                links[from].out.push(sender);
                links[to].inward.push(receiver);
            }
        }
        links
    }
}

impl Stage {
    fn new(ranks: usize) -> Self {
        let places = || (0..ranks).map(|_| RwLock::default()).collect();
        Self {
            places: [places(), places()],
            arrived: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            gate: Mutex::new(()),
            all_came: Condvar::new(),
        }
    }

    /// Arrives, and waits until there are `wanted` arrivals. False: somebody was lost.
    fn meet(&self, lost: &OnceLock<(usize, String)>, wanted: usize) -> bool {
        let arrived = self.arrived.fetch_add(1, Ordering::SeqCst) + 1;
        if arrived == wanted && self.parked.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
        let have_come = || self.arrived.load(Ordering::SeqCst) >= wanted;
        for _ in 0..SPIN_PAUSES_MAX {
            if have_come() {
                return true;
            }
            std::hint::spin_loop();
        }
        let mut gate = lock(&self.gate);
        self.parked.fetch_add(1, Ordering::SeqCst);
        while !have_come() && lost.get().is_none() {
            gate = self.all_came.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.fetch_sub(1, Ordering::SeqCst);
        have_come()
    }

    fn wake(&self) {
        let _gate = lock(&self.gate);
        self.all_came.notify_all();
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    // Nothing is guarded but the way to sleep.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that goes on by a millisecond whenever it is read.
    fn clock() -> Clock {
        let reads = AtomicUsize::new(0);
        Arc::new(move || Duration::from_millis(reads.fetch_add(1, Ordering::Relaxed) as u64))
    }

    fn group(tensor: usize, pipeline: usize) -> Vec<ThreadCollective> {
        ThreadCollective::group(Parallelism::new(tensor, pipeline).unwrap(), &clock())
    }

    /// In another order the sum of these is 1.
    const PARTS: [f64; 3] = [1e17, 1.0, -1e17];

    #[test]
    fn sums_are_in_the_order_of_ranks_on_every_rank() {
        let threads = group(3, 2).into_iter().map(|mut link| {
            thread::spawn(move || {
                let part = PARTS[link.rank() % 3];
                for round in 0..2000 {
                    let length = 1 + round % 7;
                    let mut values: Vec<f64> = (0..length).map(|i| part * i as f64).collect();
                    link.all_reduce_sum(&mut values).unwrap();
                    let sum = |i: usize| (PARTS[0] * i as f64 + i as f64) + PARTS[2] * i as f64;
                    let expected: Vec<f64> = (0..length).map(sum).collect();
                    assert_eq!(values, expected, "round {round}");
                }
                link
            })
        });
        // Nobody may be gone before all have ended.
        let threads: Vec<_> = threads.collect();
        let links: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(links.len(), 6);
    }

    #[test]
    fn messages_wait_for_their_receiver_and_not_the_other_way() {
        let mut links = group(1, 2);
        let (mut second, mut first) = (links.pop().unwrap(), links.pop().unwrap());
        for message in 0..MESSAGES_MAX {
            first.send(1, &mut vec![message as f32; message]).unwrap();
        }
        let error = first.send(1, &mut vec![0.0]).unwrap_err();
        assert_eq!(error.rank, 1, "one more than there is room for");
        first.broadcast(b"a plan").unwrap();
        for message in 0..MESSAGES_MAX {
            let mut values = vec![0.0; message];
            second.receive(0, &mut values).unwrap();
            assert_eq!(values, vec![message as f32; message]);
        }
        let mut plan = vec![7];
        second.receive_broadcast(&mut plan).unwrap();
        assert_eq!(plan, b"a plan");
        let spent = first.take_link_time();
        assert_eq!(spent.bytes, (0..MESSAGES_MAX as u64).sum::<u64>() * 4);
        assert_eq!(first.take_link_time(), LinkTime::default());
        assert!(second.take_link_time().wait > Duration::ZERO);
        drop(second);
        assert_eq!(first.send(1, &mut vec![0.0]).unwrap_err().rank, 1);
    }

    #[test]
    fn lengths_that_differ_are_an_error_on_both() {
        let mut links = group(2, 1);
        let (mut second, mut first) = (links.pop().unwrap(), links.pop().unwrap());
        let other = thread::spawn(move || {
            let error = second.all_reduce_sum(&mut [0.0; 3]).unwrap_err();
            (error.rank, second)
        });
        let error = first.all_reduce_sum(&mut [0.0; 2]).unwrap_err();
        assert_eq!(error.source.to_string(), "it has 3 values, here are 2");
        assert_eq!((error.rank, other.join().unwrap().0), (1, 0));
    }

    #[test]
    fn who_waits_for_a_lost_rank_is_told_why() {
        let mut links = group(3, 1);
        let mut third = links.pop().unwrap();
        let others = links.into_iter().map(|mut link| {
            thread::spawn(move || {
                // One waits for a sum, the other for a message.
                let doing = match link.rank() {
                    0 => link.all_reduce_sum(&mut [0.0; 2]),
                    _ => link.receive(2, &mut vec![0.0; 2]),
                };
                (doing.unwrap_err(), link)
            })
        });
        let others: Vec<_> = others.collect();
        third.abort("no memory");
        third.abort("something else");
        for other in others {
            let (error, _link) = other.join().unwrap();
            assert_eq!((error.rank, error.source.to_string().as_str()), (2, "no memory"));
        }
        assert!(third.receive(0, &mut Vec::new()).is_err());
    }
}
