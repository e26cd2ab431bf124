//! Several ranks, each on a host shim of its own, against one rank on one.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use naru_kernels::DType;
use naru_kernels::cuda::GroupId;

use super::*;
use crate::decoder::tests::cuts;
use crate::decoder::tests::ranks::Replica;
use crate::decoder::{Clock, Parallelism, ShardError, ThreadCollective};
use crate::weights::Tensors;

/// Tensor ranks add in another order and then round to the element where one rank does. What was on
/// the edge goes the other way, and from there on the two round without knowing of each other: both
/// are as far from the truth as one, and `sqrt(2)` times that apart.
const APART: f64 = 1.5 * GROWTH;

const LIMITS: CudaLimits = CudaLimits {
    element: Element::F16,
    max_batch_tokens: 32,
    max_sequences: 32,
    max_context_tokens: 64,
};

fn model(
    config: &ModelConfig,
    tensors: &Tensors,
    shard: Shard,
    device: Box<dyn Device>,
    limits: CudaLimits,
) -> Result<CudaModel, CudaLoadError> {
    let source = Source { config, names: &crate::config::GGUF, tensors };
    CudaModel::of_source(&source, shard, device, &tiny::pool(), limits, &mut |_| ())
}

fn decoder(
    config: &ModelConfig,
    tensors: &Tensors,
    shard: Shard,
    limits: CudaLimits,
) -> CudaDecoder {
    let device = Box::new(shim::Shim::start().unwrap());
    let model = model(config, tensors, shard, device, limits).unwrap();
    model.with_kv_blocks(3).unwrap()
}

/// What one rank says after these steps.
fn one_rank(config: &ModelConfig, tensors: &Tensors, steps: &[std::ops::Range<usize>]) -> Vec<f32> {
    let mut one = decoder(config, tensors, Shard::whole(config), LIMITS);
    let steps = steps.iter();
    steps.flat_map(|step| one.forward(&chunk(step.clone())).unwrap().to_vec()).collect()
}

/// What a replica says after these steps, each in pieces of at least four tokens.
fn replica(
    config: &ModelConfig,
    tensors: &Tensors,
    parallelism: (usize, usize),
    limits: CudaLimits,
    steps: &[std::ops::Range<usize>],
) -> Vec<f32> {
    let load =
        |shard| -> Box<dyn RankDecoder> { Box::new(decoder(config, tensors, shard, limits)) };
    let mut replica = Replica::of(config, parallelism, &load);
    let steps = steps.iter();
    let logits = steps.flat_map(|step| replica.logits(&chunk(step.clone()))).collect();
    assert!(replica.end().iter().all(Result::is_ok), "{parallelism:?}: a rank did not end well");
    logits
}

fn check_tensor(
    what: &str,
    config: &ModelConfig,
    tensors: &Tensors,
    parallelism: (usize, usize),
    limits: CudaLimits,
) {
    let steps = [0..10, 10..11];
    let expected = one_rank(config, tensors, &steps);
    let found = replica(config, tensors, parallelism, limits, &steps);
    let apart = relative(&found, &expected);
    let bound = APART * Element::F16.epsilon();
    assert!(apart < bound, "{what} on {parallelism:?}: off by {apart} of {bound}");
}

fn check(what: &str, parallelism: (usize, usize), change: impl Fn(&mut ModelConfig)) {
    let mut config = tiny::config();
    change(&mut config);
    let tensors = tiny::mapped(&tiny::tensors(&config, 7));
    check_tensor(what, &config, &tensors, parallelism, LIMITS);
}

#[test]
fn tensor_ranks_give_one_ranks_logits() {
    for (what, change) in tiny::BLOCKS {
        check(what, (2, 1), change);
    }
    check("two ranks hold a key-value head", (4, 1), |_| ());
    check("three ranks, uneven everywhere but in heads", (3, 1), |c| {
        (c.attention.heads, c.attention.kv_heads) = (6, 3);
    });
}

#[test]
fn tensor_ranks_sum_in_front_of_every_norm() {
    check("norms on both sides", (2, 1), |c| c.norm.placement = NormPlacement::Sandwich);
    check("norms after", (2, 1), |c| c.norm.placement = NormPlacement::Post);
    check("blocks side by side", (2, 2), |c| {
        (c.norm.placement, c.norm.kind) = (NormPlacement::Parallel, NormKind::Layer);
    });
    check("two ranks in each of two stages", (2, 2), |c| {
        c.tied_embeddings = true;
        (c.multipliers.embedding, c.multipliers.residual, c.multipliers.logit) = (3.0, 0.5, 0.3);
    });
}

/// Which kernel multiplies depends on how many rows there are, so one rank gets the same pieces.
#[test]
fn stages_change_no_bit() {
    let mut config = tiny::config();
    config.layers[1].window = Some(6);
    config.norm.placement = NormPlacement::Sandwich;
    let tensors = tiny::mapped(&tiny::tensors(&config, 7));
    let pieces = [0..5, 5..10, 10..13, 13..14, 14..15];
    let expected = one_rank(&config, &tensors, &pieces);
    for stages in [2, 4] {
        let steps = [0..10, 10..13, 13..14, 14..15];
        let found = replica(&config, &tensors, (1, stages), LIMITS, &steps);
        assert_eq!(found, expected, "{stages} stages");
    }
}

#[test]
fn heads_may_end_inside_a_block() {
    let config = cuts::config();
    let tensors = cuts::mapped(&tiny::tensors(&config, 9), DType::Q4_K, DType::Q4_K);
    check_tensor("two heads of four in a block of 256", &config, &tensors, (2, 1), LIMITS);
    let mut wide = config;
    (wide.attention.heads, wide.attention.kv_heads) = (12, 2);
    let tensors = cuts::mapped(&tiny::tensors(&wide, 9), DType::Q6_K, DType::Q4_K);
    check_tensor("the middle block of three is shared", &wide, &tensors, (2, 1), LIMITS);
}

#[test]
fn a_step_may_want_more_logits_than_there_is_room_for() {
    let config = tiny::config();
    let tensors = tiny::mapped(&tiny::tensors(&config, 7));
    let limits = CudaLimits { max_sequences: 4, ..LIMITS };
    check_tensor("ten rows, four at once", &config, &tensors, (2, 1), limits);
    check_tensor("five rows, four at once", &config, &tensors, (1, 2), limits);
}

/// What a device was asked.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The key, and how many launches.
    runs: Vec<(Option<u64>, usize)>,
    /// Values that went to the host.
    reads: usize,
    /// Which group, as which of how many.
    joined: Vec<(u8, usize, usize)>,
    sums: usize,
}

/// A shim that notes what it was asked, and sums with others in memory if it can.
struct Watched {
    device: shim::Shim,
    seen: Arc<Mutex<Seen>>,
    sums: Option<ThreadCollective>,
}

impl Watched {
    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().unwrap());
    }
}

impl Device for Watched {
    fn allocate(&mut self, what: &'static str, bytes: usize) -> Result<DevicePointer, GpuError> {
        Device::allocate(&mut self.device, what, bytes)
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        self.device.free_bytes()
    }

    fn upload(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<(), GpuError> {
        Device::upload(&mut self.device, to, bytes)
    }

    fn upload_pieces(
        &mut self,
        to: DevicePointer,
        pieces: &[std::ops::Range<usize>],
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), GpuError> {
        self.device.upload_pieces(to, pieces, fill)
    }

    fn run(
        &mut self,
        key: Option<u64>,
        launches: &mut dyn FnMut() -> Vec<naru_kernels::cuda::Launch>,
    ) -> Result<(), GpuError> {
        let mut launches = launches();
        self.note(|seen| seen.runs.push((key, launches.len())));
        self.device.run(key, &mut || mem::take(&mut launches))
    }

    fn read_floats(&mut self, from: DevicePointer, count: usize) -> Result<&[f32], GpuError> {
        self.note(|seen| seen.reads += 1);
        self.device.read_floats(from, count)
    }

    fn read_words(&mut self, from: DevicePointer, count: usize) -> Result<&[u32], GpuError> {
        self.device.read_words(from, count)
    }

    fn has_groups(&self) -> bool {
        self.sums.is_some()
    }

    fn new_group(&mut self) -> Result<GroupId, GpuError> {
        static GROUPS: AtomicU8 = AtomicU8::new(0);
        Ok(GroupId([GROUPS.fetch_add(1, Ordering::Relaxed); GroupId::BYTES]))
    }

    fn join_group(&mut self, id: &GroupId, rank: usize, ranks: usize) -> Result<(), GpuError> {
        self.note(|seen| seen.joined.push((id.0[9], rank, ranks)));
        Ok(())
    }

    fn sum_over_group(&mut self, at: DevicePointer, count: usize) -> Result<bool, GpuError> {
        let is_in_one = !self.seen.lock().unwrap().joined.is_empty();
        let Some(sums) = self.sums.as_mut().filter(|_| is_in_one) else { return Ok(false) };
        let mut values = self.device.read_floats(at, count)?.to_vec();
        sums.all_reduce_floats(&mut values, &mut Vec::new()).unwrap();
        self.note(|seen| seen.sums += 1);
        self.device.upload_floats(at, &values)?;
        Ok(true)
    }
}

/// What a replica says after a step of one token, and what each rank's device was asked. Devices of
/// the ranks in `grouped` can sum in groups.
fn watch(parallelism: (usize, usize), grouped: &[usize]) -> (Vec<f32>, Vec<Seen>) {
    let config = tiny::config();
    let tensors = tiny::mapped(&tiny::tensors(&config, 7));
    let all = Parallelism::new(parallelism.0, parallelism.1).unwrap();
    let clock: Clock = Arc::new(|| Duration::ZERO);
    let sums = Mutex::new(ThreadCollective::group(all, &clock).into_iter());
    let of_ranks: Mutex<Vec<Arc<Mutex<Seen>>>> = Mutex::default();
    let load = |shard: Shard| -> Box<dyn RankDecoder> {
        let seen = Arc::<Mutex<Seen>>::default();
        of_ranks.lock().unwrap().push(Arc::clone(&seen));
        let sums = sums.lock().unwrap().next().filter(|sums| grouped.contains(&sums.rank()));
        let device = Watched { device: shim::Shim::start().unwrap(), seen, sums };
        let model = model(&config, &tensors, shard, Box::new(device), LIMITS).unwrap();
        Box::new(model.with_kv_blocks(3).unwrap())
    };
    let mut replica = Replica::of(&config, parallelism, &load);
    let logits = replica.logits(&chunk(0..1));
    assert!(replica.end().iter().all(Result::is_ok));
    let of_ranks = of_ranks.into_inner().unwrap().into_iter();
    (logits, of_ranks.map(|seen| seen.lock().unwrap().clone()).collect())
}

/// A device records what has a key as a graph: one rank's step stays whole, and so does a stage's.
#[test]
fn a_step_is_cut_where_tensor_ranks_meet_and_nowhere_else() {
    let runs = |parallelism| -> Vec<Vec<(Option<u64>, usize)>> {
        watch(parallelism, &[]).1.into_iter().map(|seen| seen.runs).collect()
    };
    let whole = runs((1, 1)).remove(0);
    let [(key, launches)] = whole[..] else { panic!("{whole:?}") };
    assert!(key.is_some());
    let stages = runs((1, 2));
    for stage in &stages {
        let [(of_stage, _)] = stage[..] else { panic!("{stage:?}") };
        assert_eq!(of_stage, key);
    }
    let sum: usize = stages.iter().map(|stage| stage[0].1).sum();
    assert_eq!(sum, launches + 1, "the first stage adds its last block to the stream");
    let layers = tiny::config().layers.len();
    for rank in runs((2, 1)) {
        assert_eq!(rank.len(), 2 * layers + 2, "{rank:?}");
        assert!(rank.iter().all(|(key, _)| key.is_none()));
        let sum: usize = rank.iter().map(|(_, launches)| launches).sum();
        assert_eq!(sum, launches + 2 * layers, "each sum is rounded as one rank's block is");
    }
}

#[test]
fn devices_that_can_sum_among_themselves_do_if_all_can() {
    let (over_the_host, seen) = watch((2, 2), &[]);
    // The embedding and two blocks in each of two layers; then the stream is sent.
    assert_eq!([seen[0].reads, seen[0].sums, seen[0].joined.len()], [6, 0, 0]);
    let (in_groups, seen) = watch((2, 2), &[0, 1, 2, 3]);
    assert_eq!(in_groups, over_the_host);
    let group = |stage: usize| seen[2 * stage].joined[0].0;
    assert_ne!(group(0), group(1), "a stage sums alone");
    for (rank, seen) in seen.iter().enumerate() {
        let (stage, number) = (rank / 2, rank % 2);
        assert_eq!(seen.joined, [(group(stage), number, 2)], "rank {rank}");
        // What still goes to the host: the stream to the next stage, or the logits.
        assert_eq!([seen.sums, seen.reads], [5 - stage, 1], "rank {rank}");
    }
    let (without_one, seen) = watch((2, 2), &[0, 1, 3]);
    assert_eq!(without_one, over_the_host);
    assert!(seen.iter().all(|seen| seen.joined.is_empty()), "{seen:?}");
}

#[test]
fn ranks_share_the_memory_too() {
    let config = tiny::config();
    let tensors = tiny::mapped(&tiny::tensors(&config, 7));
    let taken = |(tensor, pipeline), rank| {
        let parallelism = Parallelism::new(tensor, pipeline).unwrap();
        let shard = Shard::of(&config, parallelism, rank).unwrap();
        let device = shim::Shim::start().unwrap();
        let all = device.free_bytes().unwrap();
        let model = model(&config, &tensors, shard, Box::new(device), LIMITS).unwrap();
        (all - model.free_bytes().unwrap(), model.kv_bytes_per_block())
    };
    let (whole, block) = taken((1, 1), 0);
    for (parallelism, rank) in [((2, 1), 0), ((2, 1), 1), ((1, 2), 0), ((1, 2), 1)] {
        let (part, of_block) = taken(parallelism, rank);
        assert!(part < whole * 3 / 4, "{parallelism:?} {rank}: {part} of {whole}");
        assert_eq!(of_block, block / 2, "{parallelism:?} {rank}");
    }
}

#[test]
fn shards_that_cannot_be_are_refused_with_those_that_can() {
    let config = tiny::config();
    let tensors = tiny::mapped(&tiny::tensors(&config, 7));
    let shard = Shard::of(&config, Parallelism::new(3, 1).unwrap(), 0).unwrap();
    let device = Box::new(shim::Shim::start().unwrap());
    let refused = model(&config, &tensors, shard, device, LIMITS).err().unwrap();
    let CudaLoadError::Load(LoadError::Shard(refused @ ShardError::Tensor { .. })) = refused else {
        panic!("{refused}")
    };
    let expected = "tensor 3: 3 ranks cannot share 4 query heads evenly; splits that work: 1, 2, 4";
    assert_eq!(refused.to_string(), expected);
}
