//! The compute pool: a fixed set of threads that run one op at a time.
//!
//! A run is published as one 64-bit word, `epoch << 20 | tasks left`; a thread claims a task by
//! lowering the word, so a thread that wakes late can neither claim from a run that is over nor
//! hold the next one up. Threads spin for some tens of microseconds between runs (ops of one layer
//! follow each other faster than that) and then park, so that an idle engine leaves its cores to
//! others.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use thiserror::Error;

use crate::cpu::Cpu;

/// Pauses before a waiting thread parks: one pause is 40 to 140 cycles, so 20 to 50 microseconds.
const SPIN_PAUSES_MAX: u32 = 1_000;
/// Bits of the state word that count tasks; the rest is the epoch, which wraps after centuries of
/// use.
const TASK_BITS: u32 = 20;
/// Tasks in one round; more are run in several rounds.
const TASKS_MAX: usize = (1 << TASK_BITS) - 1;

/// Claims of a thread that even out threads of unequal speed.
const CLAIMS_PER_THREAD: usize = 8;

/// The pool could not start a thread.
#[derive(Debug, Error)]
#[error("starting compute thread {index} of {threads}")]
pub struct StartPoolError {
    index: usize,
    threads: usize,
    #[source]
    source: io::Error,
}

/// A fixed set of threads on which ops run, the caller's among them. Dropping it ends them.
pub struct ComputePool {
    shared: Arc<Shared>,
    cpu: Cpu,
    threads: NonZeroUsize,
    workers: Vec<JoinHandle<()>>,
    /// Held through a run: runs of two callers follow each other.
    turn: Mutex<()>,
}

struct Shared {
    state: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    unfinished: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    parked_workers: AtomicUsize,
    parked_caller: AtomicBool,
    gate: Mutex<()>,
    work_came: Condvar,
    work_done: Condvar,
}

struct Job<'a> {
    tasks: usize,
    task: &'a (dyn Fn(usize) + Sync),
}

thread_local! {
    /// Set while this thread runs a task: a run inside a task runs on this thread alone.
    static INSIDE_TASK: Cell<bool> = const { Cell::new(false) };
}

impl ComputePool {
    /// Starts `threads - 1` threads; the caller of [`run`](Self::run) is the last one. Ops use the
    /// best instructions there are.
    pub fn start(threads: NonZeroUsize) -> Result<Self, StartPoolError> {
        Self::start_on(threads, Cpu::detect())
    }

    /// As [`start`](Self::start), with ops held to the instructions of `cpu`.
    pub fn start_on(threads: NonZeroUsize, cpu: Cpu) -> Result<Self, StartPoolError> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            unfinished: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            parked_workers: AtomicUsize::new(0),
            parked_caller: AtomicBool::new(false),
            gate: Mutex::new(()),
            work_came: Condvar::new(),
            work_done: Condvar::new(),
        });
        let mut pool = Self { shared, cpu, threads, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads.get() {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || shared.work())
                .map_err(|source| StartPoolError { index, threads: threads.get(), source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that run tasks, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads.get()
    }

    /// The processor that ops may use.
    pub fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// Calls `task` once with each index below `tasks`, on all threads, and returns when all calls
    /// have returned. Indices are claimed in ascending order. The first panic of a task is passed
    /// on after the other tasks have ended. A run started inside a task runs on that task's thread.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || INSIDE_TASK.get() {
            (0..tasks).for_each(task);
            return;
        }
        let _turn = lock(&self.turn);
        for first in (0..tasks).step_by(TASKS_MAX) {
            let round = |index: usize| task(first + index);
            self.shared.run_round(&Job { tasks: TASKS_MAX.min(tasks - first), task: &round });
        }
    }

    /// Cuts `rows` into rows of `row_length` values and calls `task` once with each row's index and
    /// values, on all threads. `rows` must be whole rows.
    pub fn run_rows<T: Send>(
        &self,
        rows: &mut [T],
        row_length: usize,
        task: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        if rows.is_empty() {
            return;
        }
        assert!(rows.len().is_multiple_of(row_length), "whole rows of {row_length}");
        let count = rows.len() / row_length;
        let rows = SharedSlice::new(rows);
        self.run_each(count, &|index| {
            // SAFETY: each index comes once, so these ranges never overlap, and the run ends before
            // the borrow does.
            let row = unsafe { rows.range(index * row_length, row_length) };
            task(index, row);
        });
    }

    /// As [`run`](Self::run) for many small pieces of like size: neighbours are claimed together,
    /// so that claiming them costs little.
    pub(crate) fn run_each(&self, pieces: usize, piece: &(dyn Fn(usize) + Sync)) {
        let together = (pieces / (self.threads() * CLAIMS_PER_THREAD)).max(1);
        self.run(pieces.div_ceil(together), &|task| {
            let first = task * together;
            (first..pieces.min(first + together)).for_each(piece);
        });
    }
}

impl Drop for ComputePool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _gate = lock(&self.shared.gate);
            self.shared.work_came.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so it has none of its own to report.
            drop(worker.join());
        }
    }
}

impl Shared {
    fn run_round(&self, job: &Job<'_>) {
        let published = ptr::from_ref(job).cast::<Job<'static>>().cast_mut();
        self.unfinished.store(job.tasks, Ordering::Relaxed);
        self.job.store(published, Ordering::Release);
        let epoch = (self.state.load(Ordering::Relaxed) >> TASK_BITS).wrapping_add(1);
        self.state.store(epoch << TASK_BITS | job.tasks as u64, Ordering::SeqCst);
        if self.parked_workers.load(Ordering::SeqCst) > 0 {
            let _gate = lock(&self.gate);
            self.work_came.notify_all();
        }
        self.help();
        self.wait_for_the_others();
        let payload = lock(&self.panic).take();
        if let Some(payload) = payload {
            panic::resume_unwind(payload);
        }
    }

    /// Runs tasks of the current job until none is left to claim.
    fn help(&self) {
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let left = (state & TASKS_MAX as u64) as usize;
            if left == 0 {
                return;
            }
            let job = self.job.load(Ordering::Acquire);
            let claim = self.state.compare_exchange_weak(
                state,
                state - 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            if claim.is_err() {
                continue;
            }
            // SAFETY: the claim held, so this job has an unfinished task (ours) and its run has not
            // returned; the pointer was read before the claim and is replaced only after all tasks
            // of a job are claimed, so it is this job's.
            let job = unsafe { &*job };
            INSIDE_TASK.set(true);
            let result = panic::catch_unwind(AssertUnwindSafe(|| (job.task)(job.tasks - left)));
            INSIDE_TASK.set(false);
            if let Err(payload) = result {
                lock(&self.panic).get_or_insert(payload);
            }
            if self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1
                && self.parked_caller.load(Ordering::SeqCst)
            {
                let _gate = lock(&self.gate);
                self.work_done.notify_all();
            }
        }
    }

    fn wait_for_the_others(&self) {
        for _ in 0..SPIN_PAUSES_MAX {
            if self.unfinished.load(Ordering::SeqCst) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut gate = lock(&self.gate);
        self.parked_caller.store(true, Ordering::SeqCst);
        while self.unfinished.load(Ordering::SeqCst) != 0 {
            gate = self.work_done.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked_caller.store(false, Ordering::SeqCst);
    }

    /// A worker's life: help, spin, park, until the pool is dropped.
    fn work(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            self.help();
            self.wait_for_work();
        }
    }

    fn has_news(&self) -> bool {
        self.state.load(Ordering::SeqCst) & TASKS_MAX as u64 != 0
            || self.stop.load(Ordering::SeqCst)
    }

    fn wait_for_work(&self) {
        for _ in 0..SPIN_PAUSES_MAX {
            if self.has_news() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut gate = lock(&self.gate);
        self.parked_workers.fetch_add(1, Ordering::SeqCst);
        while !self.has_news() {
            gate = self.work_came.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked_workers.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No task runs under these locks, so a poisoned one still guards a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slice that tasks write disjoint parts of.
pub(crate) struct SharedSlice<T> {
    first: *mut T,
    length: usize,
}

// SAFETY: only `range` reaches the values, and its contract keeps the parts of different threads
// apart.
unsafe impl<T: Send> Sync for SharedSlice<T> {}

impl<T> SharedSlice<T> {
    /// Shares `values`; the caller keeps them borrowed until all tasks are over.
    pub(crate) fn new(values: &mut [T]) -> Self {
        Self { first: values.as_mut_ptr(), length: values.len() }
    }

    /// Values `start..start + length`.
    ///
    /// # Safety
    /// No two ranges in use at once may overlap, and none may outlive the borrow of the slice.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start <= self.length && length <= self.length - start, "range inside the slice");
        // SAFETY: the range is inside the slice; the caller keeps ranges apart and within the
        // borrow.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> ComputePool {
        ComputePool::start(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn every_index_runs_once_whatever_the_threads() {
        for threads in [1, 2, 3] {
            let pool = pool(threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let seen: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..20 {
                    pool.run(tasks, &|i| {
                        seen[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 20), "{threads} {tasks}");
            }
        }
    }

    #[test]
    fn more_tasks_than_a_round_holds_still_run() {
        let count = AtomicUsize::new(0);
        pool(2).run(TASKS_MAX + 3, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), TASKS_MAX + 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(2);
        let run = || pool.run(16, &|i| assert!(i != 5, "task five"));
        assert!(panic::catch_unwind(AssertUnwindSafe(run)).is_err());
        let count = AtomicUsize::new(0);
        pool.run(16, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 16);
    }

    #[test]
    fn a_run_inside_a_task_runs_there() {
        let pool = pool(2);
        let count = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(4, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
        });
        assert_eq!(count.into_inner(), 16);
    }

    #[test]
    fn parked_threads_wake_up() {
        let pool = pool(2);
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(2));
            let mut rows = [usize::MAX; 300];
            pool.run_rows(&mut rows, 3, &|i, row| row.fill(i));
            assert!(rows.iter().enumerate().all(|(i, row)| *row == i / 3));
        }
    }
}
