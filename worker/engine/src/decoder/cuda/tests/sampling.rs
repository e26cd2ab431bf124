//! Tokens sampled on the device against those that the host samples from the same logits.

use std::sync::Arc;

use super::*;
use crate::engine::{Engine, EngineConfig, PrefixCache, Vocabulary};
use crate::event::{Event, FinishReason};
use crate::request::{Limits, Request, RequestId, StopRules};
use crate::sampling::{Draw, History, NextToken, Sampling, Wanted};

/// A top_p that keeps all but what weighs nothing.
const ALMOST_ALL: f32 = 1.0 - f32::EPSILON / 2.0;
/// Each log-probability is of a sum in which a device's rounding and the host's differ by less.
const NEAR_NATS: f32 = 1e-4;

/// Of one layer: what it says does not matter here.
fn one_layer() -> ModelConfig {
    let mut config = tiny::config();
    config.layers.truncate(1);
    config
}

/// A way to sample, with what it looks back on.
struct Manner {
    sampling: Sampling,
    history: History,
    masked: Vec<u32>,
    logprobs: Option<u32>,
}

impl Manner {
    fn new(change: impl Fn(&mut Sampling), logprobs: Option<u32>, masked: &[u32]) -> Self {
        let mut sampling = Sampling { seed: 5, ..Sampling::default() };
        change(&mut sampling);
        let mut history = History::new(&TOKENS, &sampling);
        [50, 3, 11, 11, 47, 11].iter().for_each(|token| history.push(*token));
        Self { sampling, history, masked: masked.to_vec(), logprobs }
    }

    fn row(&self, position: usize) -> RowSampling<'_> {
        let draw = Draw { choice: 1, position };
        let Self { sampling, history, masked, logprobs } = self;
        let logprobs = *logprobs;
        RowSampling(Wanted::Next(NextToken { sampling, history, masked, draw, logprobs }))
    }
}

fn manners() -> Vec<Manner> {
    vec![
        Manner::new(|s| s.temperature = 0.0, Some(0), &[]),
        Manner::new(|_| (), None, &[]),
        Manner::new(|s| (s.temperature, s.top_k) = (1.7, 9), Some(20), &[]),
        Manner::new(|s| (s.temperature, s.top_p) = (0.6, 0.8), Some(3), &[]),
        Manner::new(|s| (s.min_p, s.top_k, s.top_p) = (0.02, 30, 0.95), None, &[3, 4, 99]),
        Manner::new(|s| (s.repetition_penalty, s.temperature) = (1.5, 1.3), Some(1), &[7]),
        Manner::new(|s| (s.presence_penalty, s.frequency_penalty) = (0.7, 1.1), None, &[]),
        Manner::new(
            |s| {
                s.logit_bias = vec![(9, 3.0), (11, 4.0), (9, 1.0), (2, 90.0)];
                (s.repetition_penalty, s.frequency_penalty) = (0.8, -0.4);
            },
            Some(2),
            &[2, 2],
        ),
    ]
}

/// What the host makes of the same. It draws in the order of likelihood, as a device does, only
/// where it has put the tokens in order: for top_p of some top_k. So each row gets one token more,
/// which is never drawn, and all the others are asked for.
fn on_the_host(logits: &[f32], vocabulary: usize, rows: &[RowSampling<'_>]) -> Vec<SampledRow> {
    let mut sampler = Sampler::default();
    let rows = rows.iter().zip(logits.chunks(vocabulary)).map(|(row, logits)| {
        let longer = [logits, &[f32::NEG_INFINITY]].concat();
        let mut sample = |row| {
            let rows = sampler.sample_rows(&longer, vocabulary + 1, &[row]);
            rows.unwrap().remove(0)
        };
        match row.0 {
            Wanted::Next(next) => {
                let top_p = next.sampling.top_p.min(ALMOST_ALL);
                let all = vocabulary as i32;
                let top_k = if next.sampling.top_k == 0 { all } else { next.sampling.top_k };
                let sampling = &Sampling { top_p, top_k, ..next.sampling.clone() };
                sample(RowSampling(Wanted::Next(NextToken { sampling, ..next })))
            }
            _ => sample(*row),
        }
    });
    rows.collect()
}

fn on_the_device(
    decoder: &mut CudaDecoder,
    batch: &Batch,
    rows: &[RowSampling<'_>],
) -> Vec<SampledRow> {
    decoder.forward_and_sample(batch, rows, &mut Sampler::default()).unwrap()
}

fn check_rows(found: &[SampledRow], expected: &[SampledRow]) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.token, expected.token, "row {index}");
        let both = found.logprobs.as_ref().zip(expected.logprobs.as_ref());
        let Some((found, expected)) = both else {
            assert_eq!(found.logprobs, expected.logprobs, "row {index}");
            continue;
        };
        let near = |a: f32, b: f32| a == b || (a - b).abs() < NEAR_NATS;
        assert!(near(found.logprob, expected.logprob), "row {index}: {found:?} {expected:?}");
        assert_eq!(found.top.len(), expected.top.len(), "row {index}");
        for (found, expected) in found.top.iter().zip(&expected.top) {
            assert_eq!(found.0, expected.0, "row {index}");
            assert!(near(found.1, expected.1), "row {index}: {found:?} {expected:?}");
        }
    }
}

#[test]
fn a_device_samples_what_the_host_does() {
    let config = one_layer();
    let batch = chunk(0..TOKENS.len());
    // With room for few rows at once.
    let mut decoder = on_the_shim_with(&config, Element::F16, 3, 8);
    let mut logits = Vec::new();
    for rows in batch.logit_rows.chunks(8) {
        let batch = Batch { logit_rows: rows.to_vec(), ..batch.clone() };
        logits.extend_from_slice(decoder.forward(&batch).unwrap());
    }
    let manners = manners();
    let mut alone = Vec::new();
    // Each manner on other rows: 168 rows, and many more changes than one launch has room for.
    for shift in 0..manners.len() {
        let rows = (0..TOKENS.len()).map(|row| manners[(row + shift) % manners.len()].row(row));
        let rows: Vec<_> = rows.collect();
        let found = on_the_device(&mut decoder, &batch, &rows);
        check_rows(&found, &on_the_host(&logits, config.vocabulary, &rows));
        alone.push((rows[20], found[20].clone()));
    }
    // The same rows in other company.
    for (row, found) in alone {
        let mut rows = [RowSampling(Wanted::Nothing); TOKENS.len()];
        rows[20] = row;
        assert_eq!(on_the_device(&mut decoder, &batch, &rows)[20], found);
    }
}

#[test]
fn rows_of_known_tokens_and_rows_without_any() {
    let config = one_layer();
    let mut decoder = on_the_shim(&config, Element::F16);
    let batch = chunk(0..TOKENS.len());
    let logits = decoder.forward(&batch).unwrap().to_vec();
    let everything: Vec<u32> = (0..60).collect();
    let none = Manner::new(|_| (), Some(4), &everything);
    let known = |row: usize| Wanted::Known { token: TOKENS[row], top: row as u32 };
    let mut rows: Vec<_> = (0..TOKENS.len()).map(|row| RowSampling(known(row))).collect();
    (rows[4], rows[7]) = (none.row(4), RowSampling(Wanted::Nothing));
    let found = on_the_device(&mut decoder, &batch, &rows);
    check_rows(&found, &on_the_host(&logits, config.vocabulary, &rows));
    assert_eq!((&found[4], &found[7]), (&SampledRow::default(), &SampledRow::default()));
    assert_eq!(decoder.forward(&batch).unwrap(), logits, "sampling left its changes");
    let none = Batch { logit_rows: Vec::new(), ..batch.clone() };
    assert_eq!(on_the_device(&mut decoder, &none, &[]), []);
    let few = decoder.forward_and_sample(&batch, &rows[1..], &mut Sampler::default());
    let expected = "the batch cannot be: something is wanted of 20 rows, where 21 are";
    assert_eq!(few.unwrap_err().to_string(), expected);
}

/// Every token is one letter.
struct Letters;

impl Vocabulary for Letters {
    fn token_bytes(&self, id: u32) -> &[u8] {
        &b"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl"[id as usize..][..1]
    }

    fn is_special(&self, _id: u32) -> bool {
        false
    }

    fn eos_ids(&self) -> &[u32] {
        &[2]
    }
}

/// Every manner as a request of its own, the odd ones with two choices.
fn requests() -> Vec<Request> {
    let requests = manners().into_iter().enumerate().map(|(index, manner)| Request {
        id: RequestId(index as u64),
        // Nearly a block, so that each answer needs two more.
        prompt: TOKENS[index % 4..][..13 + index % 4].to_vec(),
        tenant_salt: 0,
        sampling: Sampling { n: 1 + index as u32 % 2, seed: index as u64, ..manner.sampling },
        limits: Limits { max_tokens: Some(20), min_tokens: 19, ignore_eos: false },
        stop: StopRules { token_ids: manner.masked, ..StopRules::default() },
        logprobs: manner.logprobs,
        prompt_logprobs: (index == 5).then_some(2),
        skip_special_tokens: true,
    });
    requests.collect()
}

fn serve(requests: &[Request]) -> Vec<Event> {
    let config = EngineConfig {
        max_sequences: 8,
        max_batch_tokens: 20,
        max_context_tokens: 64,
        // Too few for eight sequences: some must wait, and begin again.
        kv_blocks: 7,
        prefix_cache: PrefixCache::Tenant,
    };
    let decoder = on_the_shim_with(&one_layer(), Element::Bf16, config.kv_blocks, 8);
    let mut engine = Engine::new(Box::new(decoder), Arc::new(Letters), config).unwrap();
    for request in requests {
        engine.admit(request.clone()).unwrap();
    }
    let mut events = Vec::new();
    for _ in 0..300 {
        events.extend(engine.step());
        if engine.is_idle() {
            let stats = engine.stats();
            assert_eq!((stats.kv_blocks_used, stats.steps_failed_total), (0, 0));
            assert!(stats.preemptions_total > 0, "{stats:?}");
            return events;
        }
    }
    panic!("the engine did not come to rest: {:?}", engine.stats());
}

#[test]
fn an_engine_serves_from_a_device() {
    let requests = requests();
    let events = serve(&requests);
    let mut finished = 0;
    for event in &events {
        match event {
            Event::Finished { id, reason, usage, .. } => {
                finished += 1;
                let request = &requests[id.0 as usize];
                assert_eq!(usage.prompt_tokens, request.prompt.len());
                assert!((19..=20).contains(&usage.completion_tokens));
                assert!(matches!(reason, FinishReason::Length | FinishReason::Stop));
            }
            Event::Output { id, tokens, .. } => {
                let [token] = &tokens[..] else { panic!("{tokens:?}") };
                let wanted = requests[id.0 as usize].logprobs;
                let top = token.logprobs.as_ref().map(|logprobs| logprobs.top.len() as u32);
                assert_eq!(top, wanted);
                assert!(token.logprobs.as_ref().is_none_or(|all| all.logprob <= 0.0));
            }
            Event::Prompt { id, tokens } => {
                let known: Vec<u32> = tokens.iter().map(|token| token.id).collect();
                assert_eq!(known, requests[id.0 as usize].prompt[1..]);
                assert!(tokens.iter().all(|token| token.logprobs.is_some()));
            }
            Event::Failed { error, .. } => panic!("{error}"),
            Event::Scheduled { .. } => {}
        }
    }
    assert_eq!(finished, 12, "choices");
    assert!(events.iter().any(|event| matches!(event, Event::Prompt { .. })));
    assert_eq!(events, serve(&requests), "the same seeds gave something else");
}
