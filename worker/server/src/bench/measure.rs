//! What it takes two ranks to agree, whatever joins them.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use naru_engine::{Collective, CollectiveError};
use serde::{Deserialize, Serialize};

/// Rounds of one measurement, at least and at most: with the most there is a 99th percentile.
const ROUNDS: (usize, usize) = (30, 3_000);
/// What one measurement may take, within those.
const TIME: Duration = Duration::from_millis(200);
/// Bytes of one round that rank 1 takes part in.
const BYTES_MAX: usize = 1 << 30;

/// What the ranks do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// A sum on both.
    AllReduce,
    /// A message of rank 0, and an answer without values.
    Broadcast,
    /// Values to the other and as many back; half of it is the way of one.
    SendReceive,
}

impl Operation {
    pub(super) const ALL: [Self; 3] = [Self::AllReduce, Self::Broadcast, Self::SendReceive];
}

/// One measurement, as rank 0 tells rank 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    operation: Operation,
    bytes: usize,
    rounds: usize,
}

/// What one way took, over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Measured {
    pub(super) operation: Operation,
    pub(super) bytes: usize,
    rounds: usize,
    pub(super) seconds_min: f64,
    pub(super) seconds_p50: f64,
    pub(super) seconds_p99: f64,
    pub(super) bytes_per_second: f64,
}

impl Measured {
    /// `seconds` has one of each round, at least one.
    fn new(task: &Task, mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
        Self {
            operation: task.operation,
            bytes: task.bytes,
            rounds: seconds.len(),
            seconds_min: at(0.0),
            seconds_p50: at(0.5),
            seconds_p99: at(0.99),
            bytes_per_second: task.bytes as f64 / at(0.5),
        }
    }
}

/// Rank 0 measures every operation at every one of `sizes` (bytes, of whole values), and ends what
/// [`follow`] runs on rank 1. Errors: that one is lost.
pub(super) fn lead(
    collective: &mut dyn Collective,
    sizes: &[usize],
) -> anyhow::Result<Vec<Measured>> {
    let mut found = Vec::new();
    for operation in Operation::ALL {
        for &bytes in sizes {
            // The first rounds find memory and show how many more there is time for.
            let first = Task { operation, bytes, rounds: ROUNDS.0 };
            let begin = Instant::now();
            measure(collective, &first)?;
            let rounds = rounds(begin.elapsed() / ROUNDS.0 as u32);
            let task = Task { operation, bytes, rounds };
            found.push(Measured::new(&task, measure(collective, &task)?));
        }
    }
    collective.broadcast(&[])?;
    Ok(found)
}

/// How many rounds that take so long each there is time for.
fn rounds(each: Duration) -> usize {
    let rounds = TIME.as_nanos() / each.as_nanos().max(1);
    usize::try_from(rounds).unwrap_or(usize::MAX).clamp(ROUNDS.0, ROUNDS.1)
}

/// Rank 0's side of a task; seconds of each round.
fn measure(collective: &mut dyn Collective, task: &Task) -> anyhow::Result<Vec<f64>> {
    collective.broadcast(&serde_json::to_vec(task).context("telling rank 1 the task")?)?;
    let mut round = Round::new(task);
    let mut seconds = Vec::with_capacity(task.rounds);
    for _ in 0..task.rounds {
        seconds.push(round.lead(collective)?.as_secs_f64());
    }
    Ok(seconds)
}

/// Rank 1 does its part until rank 0 has done. Errors: rank 0 is lost, or is another program.
pub(super) fn follow(collective: &mut dyn Collective) -> anyhow::Result<()> {
    let mut message = Vec::new();
    loop {
        collective.receive_broadcast(&mut message)?;
        if message.is_empty() {
            return Ok(());
        }
        let task: Task = serde_json::from_slice(&message).context("reading the task")?;
        if task.bytes > BYTES_MAX || task.rounds > ROUNDS.1 {
            bail!("a task of {} bytes and {} rounds", task.bytes, task.rounds);
        }
        let mut round = Round::new(&task);
        for _ in 0..task.rounds {
            round.follow(collective)?;
        }
    }
}

/// One round after the other of a task, in the same memory.
struct Round {
    operation: Operation,
    values: Vec<f32>,
    addends: Vec<f64>,
    message: Vec<u8>,
    bytes: usize,
}

impl Round {
    fn new(task: &Task) -> Self {
        let &Task { operation, bytes, .. } = task;
        let values = vec![0.0; bytes / size_of::<f32>()];
        let addends = vec![0.0; bytes / size_of::<f64>()];
        Self { operation, values, addends, message: vec![0; bytes], bytes }
    }

    /// Rank 0's side; what one way took.
    fn lead(&mut self, collective: &mut dyn Collective) -> Result<Duration, CollectiveError> {
        let begin = Instant::now();
        match self.operation {
            Operation::AllReduce => collective.all_reduce_sum(&mut self.addends)?,
            Operation::Broadcast => {
                collective.broadcast(&self.message)?;
                collective.receive(1, &mut Vec::new())?;
            }
            Operation::SendReceive => {
                self.send(1, collective)?;
                collective.receive(1, &mut self.values)?;
                return Ok(begin.elapsed() / 2);
            }
        }
        Ok(begin.elapsed())
    }

    fn follow(&mut self, collective: &mut dyn Collective) -> Result<(), CollectiveError> {
        match self.operation {
            Operation::AllReduce => collective.all_reduce_sum(&mut self.addends),
            Operation::Broadcast => {
                collective.receive_broadcast(&mut self.message)?;
                collective.send(0, &mut Vec::new())
            }
            Operation::SendReceive => {
                collective.receive(0, &mut self.values)?;
                self.send(0, collective)
            }
        }
    }

    /// Sends the values, and has as many again.
    fn send(&mut self, to: usize, collective: &mut dyn Collective) -> Result<(), CollectiveError> {
        collective.send(to, &mut self.values)?;
        self.values.resize(self.bytes / size_of::<f32>(), 0.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use naru_engine::{Clock, Parallelism, ThreadCollective};

    use super::*;

    #[test]
    fn two_ranks_measure_every_operation_at_every_size() {
        let start = Instant::now();
        let clock: Clock = Arc::new(move || start.elapsed());
        let mut ranks = ThreadCollective::group(Parallelism::new(2, 1).unwrap(), &clock);
        let (mut second, mut first) = (ranks.pop().unwrap(), ranks.pop().unwrap());
        let following = thread::spawn(move || follow(&mut second).unwrap());
        let sizes = [8, 1 << 20];
        let found = lead(&mut first, &sizes).unwrap();
        following.join().unwrap();
        let expected = Operation::ALL.map(|operation| sizes.map(|bytes| (operation, bytes)));
        let measured: Vec<_> = found.iter().map(|one| (one.operation, one.bytes)).collect();
        assert_eq!(measured, expected.concat());
        for one in found {
            let Measured { seconds_min, seconds_p50, seconds_p99, bytes_per_second, .. } = one;
            assert!(0.0 < seconds_min && seconds_min <= seconds_p50 && seconds_p50 <= seconds_p99);
            assert!((bytes_per_second * seconds_p50 - one.bytes as f64).abs() < 1.0);
        }
    }

    #[test]
    fn a_task_that_is_none_is_refused() {
        #[track_caller]
        fn check(message: &[u8], why: &str) {
            let clock: Clock = Arc::new(|| Duration::ZERO);
            let mut ranks = ThreadCollective::group(Parallelism::new(2, 1).unwrap(), &clock);
            let (mut second, mut first) = (ranks.pop().unwrap(), ranks.pop().unwrap());
            first.broadcast(message).unwrap();
            assert_eq!(follow(&mut second).unwrap_err().to_string(), why);
        }
        check(b"{}", "reading the task");
        let huge = br#"{"operation": "broadcast", "bytes": 99999999999, "rounds": 1}"#;
        check(huge, "a task of 99999999999 bytes and 1 rounds");
    }

    #[test]
    fn there_are_as_many_rounds_as_there_is_time_for() {
        assert_eq!(rounds(Duration::from_secs(1)), ROUNDS.0);
        assert_eq!(rounds(TIME / 100), 100);
        assert_eq!(rounds(Duration::ZERO), ROUNDS.1);
    }

    #[test]
    fn percentiles_are_of_the_rounds() {
        let task = Task { operation: Operation::AllReduce, bytes: 8, rounds: 101 };
        let found = Measured::new(&task, (1..=101).rev().map(f64::from).collect());
        assert_eq!((found.seconds_min, found.seconds_p50, found.seconds_p99), (1.0, 51.0, 100.0));
    }
}
