//! Several ranks of one replica as threads of one process.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{TOKENS, ready, tiny, whole};
use crate::config::{ModelConfig, NormPlacement};
use crate::decoder::{
    Clock, Collective, Decoder, LoadError, LocalDecoder, Parallelism, RankDecoder, RankError,
    Shard, ShardError, ShardedDecoder, SingleRank, StepError, ThreadCollective, serve_rank,
};
use crate::engine::{Batch, Forward, Span};

/// A clock that stands still: nothing is measured here.
fn clock() -> Clock {
    Arc::new(|| Duration::ZERO)
}

/// A rank on the processor, with three blocks.
pub(super) fn local(decoder: Decoder) -> Box<dyn RankDecoder> {
    Box::new(LocalDecoder::new(decoder, 3).unwrap())
}

/// Rank 0 of a replica whose other ranks are threads.
pub(crate) struct Replica {
    first: Option<ShardedDecoder>,
    others: Vec<JoinHandle<Result<(), RankError>>>,
}

impl Replica {
    fn start(config: &ModelConfig, tensors: &tiny::TensorMap, parallelism: (usize, usize)) -> Self {
        let tensors = tiny::mapped(tensors);
        Self::of(config, parallelism, &|shard| local(tiny::load(config, &tensors, shard).unwrap()))
    }

    /// Of ranks that `load` loads.
    pub(crate) fn of(
        config: &ModelConfig,
        (tensor, pipeline): (usize, usize),
        load: &dyn Fn(Shard) -> Box<dyn RankDecoder>,
    ) -> Self {
        let parallelism = Parallelism::new(tensor, pipeline).unwrap();
        let mut ranks = ThreadCollective::group(parallelism, &clock()).into_iter().map(|link| {
            let shard = Shard::of(config, parallelism, link.rank()).unwrap();
            (load(shard), link)
        });
        let (decoder, link) = ranks.next().unwrap();
        let first = ShardedDecoder::new(decoder, Box::new(link));
        let others = ranks.map(|(mut decoder, mut link)| {
            thread::spawn(move || serve_rank(decoder.as_mut(), &mut link, &mut |_| ()))
        });
        let others = others.collect();
        // Pieces so small that every stage has several of them.
        Self { first: Some(first.with_piece_tokens_min(4)), others }
    }

    pub(crate) fn logits(&mut self, batch: &Batch) -> Vec<f32> {
        self.first.as_mut().unwrap().forward(batch).unwrap().to_vec()
    }

    pub(crate) fn end(mut self) -> Vec<Result<(), RankError>> {
        drop(self.first.take());
        self.others.drain(..).map(|other| other.join().unwrap()).collect()
    }
}

fn one_rank(config: &ModelConfig) -> Vec<f32> {
    let (_, mut decoder, mut kv) = ready(config, 5);
    decoder.forward(&whole(&TOKENS), &mut kv, &mut SingleRank).unwrap().to_vec()
}

pub(super) fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn check(what: &str, parallelism: (usize, usize), change: impl Fn(&mut ModelConfig)) {
    let mut config = tiny::config();
    change(&mut config);
    let mut replica = Replica::start(&config, &tiny::tensors(&config, 5), parallelism);
    let found = replica.logits(&whole(&TOKENS));
    let expected = one_rank(&config);
    assert_eq!(found, expected, "{what}");
    assert!(replica.end().iter().all(Result::is_ok), "{what}: a rank did not end well");
}

#[test]
fn tensor_ranks_in_stages_give_one_ranks_logits() {
    check("llama", (2, 2), |_| ());
    check("every bias", (2, 2), |c| {
        (c.attention.input_bias, c.attention.output_bias) = (true, true);
        c.feed_forward.bias = true;
    });
    check("norms after the sum of ranks", (2, 2), |c| c.norm.placement = NormPlacement::Sandwich);
    check("one attention, one feed-forward, both at once", (2, 1), |c| {
        c.norm.placement = NormPlacement::Parallel;
    });
    check("tied embeddings and multipliers", (2, 2), |c| {
        c.tied_embeddings = true;
        (c.multipliers.embedding, c.multipliers.residual, c.multipliers.logit) = (3.0, 0.5, 0.3);
    });
    check("two ranks hold a key-value head", (4, 1), |_| ());
    check("three ranks, uneven everywhere but in heads", (3, 1), |c| {
        (c.attention.heads, c.attention.kv_heads) = (6, 3);
    });
    check("soft-capped logits", (2, 1), |c| c.final_softcap = Some(3.0));
}

#[test]
fn stages_without_tensor_ranks_change_no_bit() {
    for stages in 1..=4 {
        check("stages alone", (1, stages), |_| ());
    }
    check("stages and windows", (1, 2), |c| c.layers[1].window = Some(6));
}

#[test]
fn steps_follow_each_other_over_growing_tables() {
    let config = tiny::config();
    let expected = one_rank(&config);
    let mut replica = Replica::start(&config, &tiny::tensors(&config, 5), (1, 3));
    let mut logits = Vec::new();
    for (start, end) in [(0usize, 9usize), (9, 10), (10, 17), (17, 21)] {
        let held = end.div_ceil(naru_kernels::KV_BLOCK_TOKENS);
        let count = end - start;
        let batch = Batch {
            tokens: TOKENS[start..end].to_vec(),
            spans: vec![Span {
                tokens: 0..count,
                position: start,
                blocks: [2, 0, 1][..held].to_vec(),
            }],
            logit_rows: (0..count).collect(),
        };
        logits.extend(replica.logits(&batch));
    }
    assert_eq!(logits, expected);
    // No rows at all: the step is over all the same, and its keys are there.
    let batch = Batch { logit_rows: Vec::new(), ..whole(&TOKENS[..9]) };
    assert!(replica.logits(&batch).is_empty());
    assert!(replica.logits(&Batch::default()).is_empty());
    let batch = super::span_of(&TOKENS, 9..21);
    assert_eq!(replica.logits(&batch), expected[9 * config.vocabulary..]);
}

#[test]
fn what_cannot_be_is_refused_before_anybody_hears_of_it() {
    let config = tiny::config();
    let mut replica = Replica::start(&config, &tiny::tensors(&config, 5), (2, 2));
    let first = replica.first.as_mut().unwrap();
    let mut batch = whole(&TOKENS);
    batch.tokens[4] = 51;
    let error = first.forward(&batch).unwrap_err();
    assert_eq!(error.to_string(), "token 51 at place 4 of the batch: the vocabulary has 51");
    let mut batch = whole(&TOKENS);
    batch.spans[0].blocks[1] = 3;
    assert!(first.forward(&batch).is_err());
    let logits = replica.logits(&whole(&TOKENS));
    assert_eq!(logits, one_rank(&config), "the ranks are still together");
    assert!(replica.end().iter().all(Result::is_ok));
}

/// A rank with fewer blocks than rank 0 cannot follow it: everybody says so, and nobody hangs.
#[test]
fn a_rank_that_fails_parts_them_all() {
    let config = tiny::config();
    let parallelism = Parallelism::new(2, 2).unwrap();
    let tensors = tiny::mapped(&tiny::tensors(&config, 5));
    for failing in 1..4 {
        let mut links = ThreadCollective::group(parallelism, &clock()).into_iter();
        let load = |rank| {
            let shard = Shard::of(&config, parallelism, rank).unwrap();
            tiny::load(&config, &tensors, shard).unwrap()
        };
        let mut first = ShardedDecoder::new(local(load(0)), Box::new(links.next().unwrap()));
        let others: Vec<_> = links
            .map(|mut link| {
                let blocks = if link.rank() == failing { 2 } else { 3 };
                let mut decoder = LocalDecoder::new(load(link.rank()), blocks).unwrap();
                thread::spawn(move || serve_rank(&mut decoder, &mut link, &mut |_| ()))
            })
            .collect();
        let error = first.forward(&whole(&TOKENS)).unwrap_err();
        assert!(error.to_string().starts_with(&format!("rank {failing} is lost")), "{error}");
        let source = error.source().unwrap().to_string();
        assert_eq!(source, "computing the step: the batch cannot be: span 0 names block 2 of 2");
        let again = first.forward(&whole(&TOKENS)).unwrap_err();
        assert!(matches!(again.downcast_ref::<StepError>(), Some(StepError::Parted)));
        for (index, other) in others.into_iter().enumerate() {
            let error = other.join().unwrap().unwrap_err();
            match error {
                RankError::Step(StepError::Batch { .. }) => assert_eq!(index + 1, failing),
                RankError::Step(StepError::Collective(lost)) | RankError::Collective(lost) => {
                    assert_eq!(lost.rank, failing);
                }
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_rank_that_is_gone_is_an_error_at_the_next_step() {
    let config = tiny::config();
    for parallelism in [(2, 1), (1, 2)] {
        let (tensor, pipeline) = parallelism;
        let parallelism = Parallelism::new(tensor, pipeline).unwrap();
        let mut links = ThreadCollective::group(parallelism, &clock());
        let shard = Shard::of(&config, parallelism, 0).unwrap();
        let tensors = tiny::mapped(&tiny::tensors(&config, 5));
        let decoder = tiny::load(&config, &tensors, shard).unwrap();
        let gone = links.pop().unwrap();
        let mut first = ShardedDecoder::new(local(decoder), Box::new(links.pop().unwrap()));
        let panics = thread::spawn(move || {
            let _held = gone;
            panic!("as a test");
        });
        assert!(panics.join().is_err());
        let error = first.forward(&whole(&TOKENS)).unwrap_err();
        assert!(error.to_string().starts_with("rank 1 is lost"), "{error}");
        assert_eq!(error.source().unwrap().to_string(), "its thread panicked");
    }
}

#[test]
fn shards_that_cannot_be_are_refused() {
    let config = tiny::config();
    let parallelism = |tensor, pipeline| Parallelism::new(tensor, pipeline).unwrap();
    let of = |parallelism, rank| Shard::of(&config, parallelism, rank);
    let error = of(parallelism(1, 5), 0).unwrap_err().to_string();
    assert_eq!(error, "pipeline 5: the model has 4 layers; splits that work: 1 to 4");
    assert_eq!(of(parallelism(2, 1), 2).unwrap_err().to_string(), "rank 2 of 2");
    let tensors = tiny::mapped(&tiny::tensors(&config, 5));
    let three = of(parallelism(3, 1), 0).unwrap();
    let error = tiny::load(&config, &tensors, three).err().unwrap();
    let LoadError::Shard(error @ ShardError::Tensor { .. }) = error else { panic!("{error}") };
    let expected = "tensor 3: 3 ranks cannot share 4 query heads evenly; splits that work: 1, 2, 4";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_replica_of_one_has_nobody_to_meet() {
    let (mut values, mut sums) = (vec![1.0], [1.0]);
    SingleRank.all_reduce_sum(&mut sums).unwrap();
    assert_eq!(sums, [1.0]);
    assert!(SingleRank.broadcast(b"plan").is_ok());
    assert!(SingleRank.receive_broadcast(&mut Vec::new()).is_err());
    assert!(
        SingleRank.send(1, &mut values).is_err() && SingleRank.receive(1, &mut values).is_err()
    );
}
