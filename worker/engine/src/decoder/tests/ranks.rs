//! Several ranks of one replica in one process.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use super::{TOKENS, ready, tiny, whole};
use crate::config::{ModelConfig, NormPlacement};
use crate::decoder::{Collective, CollectiveError, Shard, ShardError, SingleRank};

/// The tensor ranks of one stage meet at a barrier; stages are linked by channels.
struct Link {
    rank: usize,
    parts: Arc<Mutex<Vec<Vec<f32>>>>,
    barrier: Arc<Barrier>,
    next: Option<Sender<Vec<f32>>>,
    before: Option<Receiver<Vec<f32>>>,
}

impl Link {
    /// What each rank of the stage brought, in the order of ranks.
    fn meet(&self, mine: &[f32]) -> Vec<Vec<f32>> {
        self.parts.lock().unwrap()[self.rank] = mine.to_vec();
        self.barrier.wait();
        let all = self.parts.lock().unwrap().clone();
        self.barrier.wait();
        all
    }
}

impl Collective for Link {
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let all = self.meet(values);
        for (i, value) in values.iter_mut().enumerate() {
            *value = all.iter().map(|part| part[i]).sum();
        }
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32]) -> Result<(), CollectiveError> {
        all.copy_from_slice(&self.meet(mine).concat());
        Ok(())
    }

    fn send_to_next_stage(&mut self, values: &[f32]) -> Result<(), CollectiveError> {
        self.next.as_ref().unwrap().send(values.to_vec()).unwrap();
        Ok(())
    }

    fn receive_from_stage_before(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        values.copy_from_slice(&self.before.as_ref().unwrap().recv().unwrap());
        Ok(())
    }
}

/// Logits of each rank of the last stage.
fn run(config: &ModelConfig, tensor_ranks: usize, stages: usize, seed: u64) -> Vec<Vec<f32>> {
    let tensors = tiny::mapped(&tiny::tensors(config, seed));
    let mut befores: Vec<Option<Receiver<Vec<f32>>>> = (0..tensor_ranks).map(|_| None).collect();
    let mut threads = Vec::new();
    for stage in 0..stages {
        let barrier = Arc::new(Barrier::new(tensor_ranks));
        let parts = Arc::new(Mutex::new(vec![Vec::new(); tensor_ranks]));
        for (rank, before) in befores.iter_mut().enumerate() {
            let shard = Shard::of(config, (rank, tensor_ranks), (stage, stages));
            let last = shard.last_stage;
            let mut decoder = tiny::load(config, &tensors, shard).unwrap();
            let (sender, receiver) = channel();
            let (parts, barrier) = (Arc::clone(&parts), Arc::clone(&barrier));
            let (next, before) = ((!last).then_some(sender), before.replace(receiver));
            let mut link = Link { rank, parts, barrier, next, before };
            threads.push((
                last,
                thread::spawn(move || {
                    let mut kv = decoder.new_kv_pool(3).unwrap();
                    decoder.forward(&whole(&TOKENS), &mut kv, &mut link).unwrap().to_vec()
                }),
            ));
        }
    }
    let logits = threads.into_iter().map(|(last, thread)| (last, thread.join().unwrap()));
    logits.filter(|(last, _)| *last).map(|(_, logits)| logits).collect()
}

fn check(what: &str, (tensor_ranks, stages): (usize, usize), change: impl Fn(&mut ModelConfig)) {
    let mut config = tiny::config();
    change(&mut config);
    let (_, mut decoder, mut kv) = ready(&config, 5);
    let one = decoder.forward(&whole(&TOKENS), &mut kv, &mut SingleRank).unwrap();
    for logits in run(&config, tensor_ranks, stages, 5) {
        assert_eq!(logits.len(), one.len());
        let worst = logits.iter().zip(one).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Partial sums of f32 values near 1 in another order: 2^-24 for each of some hundred terms,
        // and a key or value may round to the neighbouring f16.
        assert!(worst < 3e-3, "{what}: off by {worst}");
    }
}

#[test]
fn two_tensor_ranks_in_two_stages_give_one_ranks_logits() {
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
        (c.multipliers.residual, c.multipliers.logit) = (0.5, 0.3);
    });
    check("two ranks share a key-value head", (4, 1), |_| ());
    check("stages alone", (1, 4), |_| ());
}

#[test]
fn stages_without_tensor_ranks_change_no_bit() {
    let config = tiny::config();
    let (_, mut decoder, mut kv) = ready(&config, 5);
    let one = decoder.forward(&whole(&TOKENS), &mut kv, &mut SingleRank).unwrap();
    assert_eq!(run(&config, 1, 3, 5), [one.to_vec()]);
}

#[test]
fn shards_that_cannot_be_are_refused() {
    let config = tiny::config();
    let check = |shard: Shard, expected: &str| {
        let error: ShardError = shard.cut(&config).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let whole = Shard::whole(&config);
    check(Shard { layers: 0..5, ..whole.clone() }, "layers 0..5 of a model of 4");
    check(Shard { layers: 2..2, ..whole.clone() }, "layers 2..2 of a model of 4");
    check(Shard { tensor_rank: 2, tensor_ranks: 2, ..whole.clone() }, "tensor rank 2 of 2");
    let three = Shard { tensor_ranks: 3, ..whole };
    check(three, "4 attention heads cannot be shared evenly by 3 tensor ranks");
}
