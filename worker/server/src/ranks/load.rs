//! The parts of a model that the ranks of a member hold.

use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, anyhow};
use naru_engine::{EngineConfig, Forward, LoadProgress, ModelFiles, Shard, ShardedDecoder};
use naru_kernels::ComputePool;
use naru_kernels::cuda::Gpu;

use super::compute::{Apart, GroupForward, serve};
use super::part::Part;
use super::seat::{Joining, Seat, Together, fingerprint};
use super::settings::RankSettings;
use crate::load::{EngineSettings, KV_MEMORY_BYTES, ModelBounds};
use crate::member::{Member, Phase};

/// The loaded ranks of a member: what joins each to the others, and what each but rank 0 runs.
pub(crate) struct Ranks {
    settings: Arc<RankSettings>,
    joining: Vec<Joining>,
    running: Vec<(usize, Box<dyn FnOnce() + Send>)>,
}

/// Rank 0's part of a model, for an engine, if rank 0 is of this member.
pub(crate) type Leading = Option<(Box<dyn Forward>, EngineConfig)>;

/// Loads, for `member`, the part of each rank that has one of `seats`, of which there is at least
/// one; all at once, for each has its own threads, and its own of `gpus` if there are any. Errors:
/// the model cannot be cut so, a part of it cannot be read, no memory for keys and values.
pub(crate) fn load(
    member: &Member,
    files: &ModelFiles,
    settings: &EngineSettings,
    seats: Vec<Seat>,
    gpus: Vec<Gpu>,
    tell: &mut (dyn FnMut(LoadProgress) + Send),
) -> anyhow::Result<(Leading, Ranks)> {
    let ranks = Arc::clone(&seats[0].settings);
    let shards: Vec<Shard> =
        seats.iter().map(|seat| ranks.shard(files, seat.rank)).collect::<anyhow::Result<_>>()?;
    let parts = load_parts(files, shards, settings, (&ranks, gpus), tell)?;
    let config = settings.for_model(&ModelBounds {
        context_tokens: files.config().context_tokens,
        kv_bytes_per_block: parts[0].kv_bytes_per_block() * parts.len() as u64,
        kv_memory_bytes: KV_MEMORY_BYTES,
    })?;
    let model = fingerprint(files);
    let mut loaded = Ranks { settings: ranks, joining: Vec::new(), running: Vec::new() };
    let mut leading = None;
    for (seat, part) in seats.into_iter().zip(parts) {
        let rank = seat.rank;
        let decoder = part.with_kv_blocks(config.kv_blocks).context("making the KV cache")?;
        let (bench, joining) = seat.take(model, config.kv_blocks);
        loaded.joining.push(joining);
        let steps = member.metrics.rank_steps(rank);
        if rank == 0 {
            let sharded = ShardedDecoder::new(decoder, Box::new(Apart));
            let forward = GroupForward::new(sharded, bench, steps);
            leading = Some((Box::new(forward) as Box<dyn Forward>, config));
        } else {
            let run = move || serve(decoder, &bench, &steps);
            loaded.running.push((rank, Box::new(run)));
        }
    }
    Ok((leading, loaded))
}

fn load_parts(
    files: &ModelFiles,
    shards: Vec<Shard>,
    settings: &EngineSettings,
    (ranks, gpus): (&RankSettings, Vec<Gpu>),
    tell: &mut (dyn FnMut(LoadProgress) + Send),
) -> anyhow::Result<Vec<Part>> {
    let progress = (vec![LoadProgress::default(); shards.len()], tell);
    let progress = Mutex::new(progress);
    let note = |index: usize, step| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        let (parts, tell) = &mut *progress;
        parts[index] = step;
        tell(LoadProgress {
            bytes_done: parts.iter().map(|part| part.bytes_done).sum(),
            bytes_total: parts.iter().map(|part| part.bytes_total).sum(),
        });
    };
    let load = |index, shard: Shard, threads, gpu| {
        let pool = ComputePool::start_on(threads, settings.cpu).context("starting threads")?;
        Part::load(files, shard, settings, (pool, gpu), &mut |step| note(index, step))
    };
    thread::scope(|scope| {
        let shards = shards.into_iter().zip(ranks.threads(settings.threads)).enumerate();
        let gpus = gpus.into_iter().map(Some).chain(iter::repeat_with(|| None));
        let loads: Vec<_> = shards
            .zip(gpus)
            .map(|((index, (shard, threads)), gpu)| {
                scope.spawn(move || load(index, shard, threads, gpu))
            })
            .collect();
        let join = |load: thread::ScopedJoinHandle<'_, anyhow::Result<Part>>| {
            load.join().map_err(|_| anyhow!("loading a rank's part of the model panicked"))?
        };
        loads.into_iter().map(join).collect()
    })
}

impl Ranks {
    /// Begins to bring the ranks to the others, each on a thread of its own but rank 0; `member`
    /// is told how it goes. Errors: the system has no more threads.
    pub(crate) fn start(self, member: &Arc<Member>) -> anyhow::Result<()> {
        let together = Arc::new(Together::new(Arc::clone(member), &self.settings));
        for (rank, run) in self.running {
            let member = Arc::clone(member);
            let run = move || {
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    member.enter(Phase::Failed(format!("rank {rank} panicked").into()));
                }
            };
            let spawned = thread::Builder::new().name(format!("rank {rank}")).spawn(run);
            spawned.context("starting the thread of a rank")?;
        }
        self.joining.into_iter().for_each(|joining| joining.join(Arc::clone(&together)));
        Ok(())
    }
}
