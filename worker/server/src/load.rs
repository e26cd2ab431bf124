//! From weights on disk to a model that answers, on the engine's own thread.

use std::fs;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use naru_engine::{
    CudaLimits, CudaModel, Decoder, Engine, EngineConfig, Forward, KV_BLOCK_TOKENS, LoadProgress,
    LocalDecoder, ModelFiles, OpenError, PrefixCache, Shard, ShardError, Splits,
};
use naru_kernels::cuda::{Element, Gpu};
use naru_kernels::{ComputePool, Cpu, CpuLevel};
use naru_protocol::worker::v1::WeightsFault;

use crate::args::{Args, PrefixCacheArg};
use crate::drive::{Drive, Loop};
use crate::member::{Bytes, Defaults, Failure, Member, Phase, Served};
use crate::ranks::{self, Ranks, Seat};
use crate::sim::{self, SimSettings};
use crate::text;
use crate::weights::Progress;

/// The bounds that the command line gives to the engine.
#[derive(Debug, Clone)]
pub(crate) struct EngineSettings {
    pub(crate) threads: NonZeroUsize,
    pub(crate) cpu: Cpu,
    pub(crate) max_sequences: usize,
    pub(crate) max_batch_tokens: usize,
    pub(crate) max_context_tokens: Option<usize>,
    /// None: as much as is usual for the model.
    pub(crate) kv_cache_bytes: Option<u64>,
    pub(crate) prefix_cache: PrefixCache,
}

/// What a model says about the bounds of its engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelBounds {
    /// Tokens of prompt and answer together.
    pub(crate) context_tokens: usize,
    /// Of all ranks of this member.
    pub(crate) kv_bytes_per_block: u64,
    /// For keys and values, where the command line does not say.
    pub(crate) kv_memory_bytes: u64,
}

/// Bounds that the model cannot be served within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BoundsError {
    #[error(
        "--max-context-tokens {asked} (engine.maxContextTokens): the model was made for {made_for}"
    )]
    Context { asked: usize, made_for: usize },
    #[error(
        "--kv-cache-memory (engine.kvCacheMemory) is below the {block_bytes} bytes of one block"
    )]
    KvCache { block_bytes: u64 },
    #[error("{free_bytes} bytes are left for keys and values; one block takes {block_bytes}")]
    NoRoom { free_bytes: u64, block_bytes: u64 },
}

impl BoundsError {
    /// Whether another command line would help, and not more memory.
    fn is_bad_usage(&self) -> bool {
        !matches!(self, Self::NoRoom { .. })
    }
}

/// For keys and values on a processor, where the command line does not say.
pub(crate) const KV_MEMORY_BYTES: u64 = 1 << 30;
/// Of a GPU's memory, what is left to the driver: graphs, and kernels that are loaded late.
const GPU_RESERVE_BYTES: u64 = 1 << 30;

impl EngineSettings {
    /// Reads them from the command line. Errors: values that exclude each other.
    pub(crate) fn new(args: &Args, cpu_level: Option<&str>) -> anyhow::Result<Self> {
        let cpu = match cpu_level {
            None => Cpu::detect(),
            Some("portable") => Cpu::at_most(CpuLevel::Portable),
            Some("avx2") => Cpu::at_most(CpuLevel::Avx2),
            Some("avx512") => Cpu::at_most(CpuLevel::Avx512Vnni),
            Some(other) => {
                bail!("NARU_CPU_LEVEL is `{other}`: use portable, avx2 or avx512")
            }
        };
        let (sequences, batch) = (args.max_sequences.get(), args.max_batch_tokens.get());
        if batch < sequences {
            bail!("--max-batch-tokens {batch} must be at least --max-sequences {sequences}");
        }
        let one = NonZeroUsize::MIN;
        Ok(Self {
            threads: args.threads.unwrap_or(thread::available_parallelism().unwrap_or(one)),
            cpu,
            max_sequences: sequences,
            max_batch_tokens: batch,
            max_context_tokens: args.max_context_tokens.map(NonZeroUsize::get),
            kv_cache_bytes: args.kv_cache_memory,
            prefix_cache: match args.prefix_cache {
                PrefixCacheArg::Tenant => PrefixCache::Tenant,
                PrefixCacheArg::Off => PrefixCache::Off,
            },
        })
    }

    /// What steps on a GPU are bounded by, of a model that was made for so many tokens.
    pub(crate) fn on_gpu(&self, context_tokens: usize) -> CudaLimits {
        CudaLimits {
            element: Element::default(),
            max_batch_tokens: self.max_batch_tokens,
            max_sequences: self.max_sequences,
            max_context_tokens: self.max_context_tokens.unwrap_or(context_tokens),
        }
    }

    /// Tokens of a prompt and its answer. Errors: more than the model was made for.
    fn context_tokens(&self, made_for: usize) -> Result<usize, BoundsError> {
        let asked = self.max_context_tokens.unwrap_or(made_for);
        if asked > made_for {
            return Err(BoundsError::Context { asked, made_for });
        }
        Ok(asked)
    }

    /// What the engine may use with this model. Errors: a context that the model was not made for,
    /// a KV cache that holds not even one block.
    pub(crate) fn for_model(&self, model: &ModelBounds) -> Result<EngineConfig, BoundsError> {
        let &ModelBounds { context_tokens, kv_bytes_per_block, kv_memory_bytes } = model;
        let max_context_tokens = self.context_tokens(context_tokens)?;
        // More than every sequence at full length can use would be a waste.
        let useful =
            max_context_tokens.div_ceil(KV_BLOCK_TOKENS).saturating_mul(self.max_sequences);
        let bytes = self.kv_cache_bytes.unwrap_or(kv_memory_bytes);
        let affordable = bytes / kv_bytes_per_block.max(1);
        let kv_blocks = usize::try_from(affordable).unwrap_or(usize::MAX).min(useful);
        if kv_blocks == 0 {
            let block_bytes = kv_bytes_per_block;
            return Err(match self.kv_cache_bytes {
                Some(_) => BoundsError::KvCache { block_bytes },
                None => BoundsError::NoRoom { free_bytes: bytes, block_bytes },
            });
        }
        Ok(EngineConfig {
            max_sequences: self.max_sequences,
            max_batch_tokens: self.max_batch_tokens,
            max_context_tokens,
            kv_blocks,
            prefix_cache: self.prefix_cache,
        })
    }
}

/// Weights on disk, and what computes on them.
pub(crate) struct Weights {
    pub(crate) path: PathBuf,
    /// They can be fetched again.
    pub(crate) is_fetched: bool,
    /// One for each rank, or for a replica alone; without any this processor computes.
    pub(crate) gpus: Vec<Gpu>,
    /// The places of this member's ranks, if it is not a replica alone.
    pub(crate) seats: Vec<Seat>,
}

/// What there is to load.
pub(crate) enum Source {
    /// A checkpoint.
    Weights(Weights),
    /// Nothing: the model is only simulated.
    Simulated(SimSettings),
}

impl Source {
    /// The one file that was fetched, if it is one.
    fn fetched_file(&self) -> Option<PathBuf> {
        match self {
            Self::Weights(Weights { path, is_fetched: true, .. }) if path.is_file() => {
                Some(path.clone())
            }
            _ => None,
        }
    }
}

/// Loads the model on a thread of its own, which then runs the engine, where there is one, for as
/// long as the process lives. Whatever goes wrong becomes the member's failure.
pub(crate) fn start(member: Arc<Member>, settings: EngineSettings, source: Source) {
    let run = move || {
        let fetched = source.fetched_file();
        let running = catch_unwind(AssertUnwindSafe(|| -> anyhow::Result<()> {
            member.enter(Phase::Loading);
            let start = Instant::now();
            let Loaded { answers, ranks } = match source {
                Source::Weights(weights) => load(&member, &settings, weights)?,
                Source::Simulated(sim) => sim::load(&member, &settings, &sim)?,
            };
            let seconds = start.elapsed().as_secs_f64();
            member.metrics.load_seconds.with_label_values(&["load"]).set(seconds);
            let engine_loop = answers.map(|(served, engine_loop)| {
                member.take(served);
                engine_loop
            });
            match ranks {
                None => member.enter(Phase::Ready),
                Some(ranks) => ranks.start(&member)?,
            }
            let Some(engine_loop) = engine_loop else { return Ok(()) };
            engine_loop.run();
            bail!("the engine's loop ended")
        }));
        let failure = match running {
            Ok(Ok(())) => return,
            Ok(Err(error)) => failure(&error, fetched.as_deref()),
            Err(_) => "the engine panicked".to_owned().into(),
        };
        member.enter(Phase::Failed(failure));
    };
    let spawned = thread::Builder::new().name("engine".to_owned()).spawn(run);
    assert!(spawned.is_ok(), "a process that cannot start a thread cannot do anything");
}

/// What an error of loading comes to. A `fetched` file that is spoilt is thrown away: it would be
/// taken for whole at the next start, whatever has been uploaded in its place.
fn failure(error: &anyhow::Error, fetched: Option<&Path>) -> Failure {
    let words = format!("{error:#}");
    let is_spoilt = error.downcast_ref::<OpenError>().is_some_and(OpenError::is_spoilt);
    let bounds = error.downcast_ref::<BoundsError>();
    let is_bad_usage = error.is::<ShardError>() || bounds.is_some_and(BoundsError::is_bad_usage);
    let Some(path) = fetched.filter(|_| is_spoilt) else {
        return Failure { is_bad_usage, ..words.into() };
    };
    let words = match fs::remove_file(path) {
        Ok(()) => format!("{words}; it was thrown away: upload the whole file"),
        Err(error) => format!("{words}; it could not be thrown away: {error}"),
    };
    Failure { words, fault: WeightsFault::Corrupt, is_bad_usage: false }
}

/// What a loaded model does in this process.
pub(crate) struct Loaded {
    /// None: rank 0 is in another member.
    pub(crate) answers: Option<(Served, Loop)>,
    /// None: this is a replica alone.
    pub(crate) ranks: Option<Ranks>,
}

/// What an engine drives, within its bounds.
type Driven = (Box<dyn Forward>, EngineConfig);

fn load_on_processor(
    files: &ModelFiles,
    settings: &EngineSettings,
    pool: ComputePool,
    tell: &mut dyn FnMut(LoadProgress),
) -> anyhow::Result<Driven> {
    let whole = Shard::whole(files.config());
    let decoder = Decoder::load(files, whole, Arc::new(pool), tell).context("loading the model")?;
    let config = settings.for_model(&ModelBounds {
        context_tokens: decoder.config().context_tokens,
        kv_bytes_per_block: decoder.kv_bytes_per_block() as u64,
        kv_memory_bytes: KV_MEMORY_BYTES,
    })?;
    let forward = LocalDecoder::new(decoder, config.kv_blocks).context("making the KV cache")?;
    Ok((Box::new(forward), config))
}

fn load_on_gpu(
    files: &ModelFiles,
    settings: &EngineSettings,
    pool: &ComputePool,
    gpu: Gpu,
    tell: &mut dyn FnMut(LoadProgress),
) -> anyhow::Result<Driven> {
    let context_tokens = files.config().context_tokens;
    let begin = Instant::now();
    let (whole, limits) = (Shard::whole(files.config()), settings.on_gpu(context_tokens));
    let model = CudaModel::load(files, whole, Box::new(gpu), pool, limits, tell);
    let model = model.context("loading the model")?;
    let gigabytes = files.weight_bytes() as f64 / 1e9;
    let gigabytes_per_second = gigabytes / begin.elapsed().as_secs_f64();
    let free = model.free_bytes().context("asking for the GPU's memory")? as u64;
    let config = settings.for_model(&ModelBounds {
        context_tokens,
        kv_bytes_per_block: model.kv_bytes_per_block() as u64,
        kv_memory_bytes: free.saturating_sub(GPU_RESERVE_BYTES),
    })?;
    tracing::info!(gigabytes, gigabytes_per_second, free_bytes = free, "weights are on the GPU");
    let forward = model.with_kv_blocks(config.kv_blocks).context("making the KV cache")?;
    Ok((Box::new(forward), config))
}

/// Into how many ranks a model can be cut.
fn splits(files: &ModelFiles) -> naru_protocol::worker::v1::Splits {
    let splits = Splits::of(files);
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    naru_protocol::worker::v1::Splits {
        tensor: splits.tensor().into_iter().map(count).collect(),
        pipeline_max: count(splits.pipeline_max()),
    }
}

fn load(
    member: &Arc<Member>,
    settings: &EngineSettings,
    Weights { path, gpus, seats, .. }: Weights,
) -> anyhow::Result<Loaded> {
    if !gpus.is_empty() {
        let ids = gpus.iter().map(|gpu| gpu.description().pci_bus_id.clone());
        member.metrics.watch_gpus(ids.collect());
    }
    let files = ModelFiles::open(&path).context("opening the model")?;
    member.described(splits(&files));
    // Known before anything is read.
    settings.context_tokens(files.config().context_tokens)?;
    let start_pool =
        || ComputePool::start_on(settings.threads, settings.cpu).context("starting threads");
    let mut progress = Progress::start("load", files.weight_bytes());
    let (text, loaded) = thread::scope(|scope| {
        let text = scope.spawn(|| text::read(&files));
        let mut tell = |step: LoadProgress| {
            member.loaded(Bytes { done: step.bytes_done, total: step.bytes_total });
            progress.at(step.bytes_done);
        };
        let loaded = if !seats.is_empty() {
            let loaded = ranks::load(member, &files, settings, seats, gpus, &mut tell);
            loaded.map(|(driven, ranks)| (driven, Some(ranks)))
        } else {
            let driven = start_pool().and_then(|pool| match gpus.into_iter().next() {
                None => load_on_processor(&files, settings, pool, &mut tell),
                Some(gpu) => load_on_gpu(&files, settings, &pool, gpu, &mut tell),
            });
            driven.map(|driven| (Some(driven), None))
        };
        (text.join(), loaded)
    });
    let text = text.map_err(|_| anyhow!("reading the tokenizer panicked"))??;
    let (driven, ranks) = loaded?;
    progress.finish();
    let Some((forward, config)) = driven else { return Ok(Loaded { answers: None, ranks }) };
    let tokenizer = Arc::new(text.tokenizer);
    let vocabulary = Arc::clone(&tokenizer);
    let engine = Engine::new(forward, vocabulary, config).context("the engine's bounds")?;
    member.metrics.describe_cache(KV_BLOCK_TOKENS, config.kv_blocks);
    let context_tokens_max = engine.context_tokens();
    tracing::info!(
        threads = settings.threads.get(),
        cpu = settings.cpu.level().name(),
        kv_blocks = config.kv_blocks,
        context_tokens_max,
        "loaded"
    );
    let (drive, engine_loop) = Drive::new(engine, Arc::clone(&member.metrics));
    let defaults = files.generation();
    let defaults = Defaults {
        temperature: defaults.temperature,
        top_p: defaults.top_p,
        top_k: defaults.top_k,
        min_p: defaults.min_p,
        repetition_penalty: defaults.repetition_penalty,
    };
    let template = text.template;
    let served = Served { tokenizer, template, defaults, context_tokens_max, drive };
    Ok(Loaded { answers: Some((served, engine_loop)), ranks })
}
