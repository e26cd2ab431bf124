//! Several ranks, each on a host shim of its own, against one rank on one.

use std::sync::{Arc, Mutex};

use naru_kernels::DType;

use super::*;
use crate::decoder::tests::cuts;
use crate::decoder::tests::ranks::Replica;
use crate::decoder::{Parallelism, ShardError};
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

/// A shim that notes what it was asked to run: the key, and how many launches.
struct Watched(shim::Shim, Runs);

type Runs = Arc<Mutex<Vec<(Option<u64>, usize)>>>;

impl Device for Watched {
    fn allocate(&mut self, what: &'static str, bytes: usize) -> Result<DevicePointer, GpuError> {
        Device::allocate(&mut self.0, what, bytes)
    }

    fn free_bytes(&self) -> Result<usize, GpuError> {
        self.0.free_bytes()
    }

    fn upload(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<(), GpuError> {
        Device::upload(&mut self.0, to, bytes)
    }

    fn upload_pieces(
        &mut self,
        to: DevicePointer,
        pieces: &[std::ops::Range<usize>],
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<(), GpuError> {
        self.0.upload_pieces(to, pieces, fill)
    }

    fn run(
        &mut self,
        key: Option<u64>,
        launches: &mut dyn FnMut() -> Vec<naru_kernels::cuda::Launch>,
    ) -> Result<(), GpuError> {
        let mut launches = launches();
        self.1.lock().unwrap().push((key, launches.len()));
        self.0.run(key, &mut || mem::take(&mut launches))
    }

    fn read_floats(&mut self, from: DevicePointer, count: usize) -> Result<&[f32], GpuError> {
        self.0.read_floats(from, count)
    }

    fn read_words(&mut self, from: DevicePointer, count: usize) -> Result<&[u32], GpuError> {
        self.0.read_words(from, count)
    }
}

/// What each rank is asked to run for a step of one token.
fn runs(parallelism: (usize, usize)) -> Vec<Vec<(Option<u64>, usize)>> {
    let config = tiny::config();
    let tensors = tiny::mapped(&tiny::tensors(&config, 7));
    let of_ranks: Mutex<Vec<Runs>> = Mutex::default();
    let load = |shard| -> Box<dyn RankDecoder> {
        let runs = Runs::default();
        of_ranks.lock().unwrap().push(Arc::clone(&runs));
        let device = Box::new(Watched(shim::Shim::start().unwrap(), runs));
        let model = model(&config, &tensors, shard, device, LIMITS).unwrap();
        Box::new(model.with_kv_blocks(3).unwrap())
    };
    let mut replica = Replica::of(&config, parallelism, &load);
    replica.logits(&chunk(0..1));
    assert!(replica.end().iter().all(Result::is_ok));
    let of_ranks = of_ranks.into_inner().unwrap().into_iter();
    of_ranks.map(|runs| runs.lock().unwrap().clone()).collect()
}

/// A device records what has a key as a graph: one rank's step stays whole, and so does a stage's.
#[test]
fn a_step_is_cut_where_tensor_ranks_meet_and_nowhere_else() {
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
