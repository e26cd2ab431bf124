//! The loop on a model without weights: what a request gets, and that company does not change it.

mod behaviour;
mod company;
mod hash_model;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::{Engine, EngineConfig, PrefixCache};
use crate::event::{Event, FinishReason, StopReason, TokenOutput};
use crate::request::{Limits, Request, RequestId, StopRules};
use crate::sampling::Sampling;

use hash_model::{HashModel, Letters};

/// Steps after which a test gives up: far more than any of them needs.
const STEPS_MAX: usize = 100_000;

/// Everything a choice was told.
#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    text: String,
    tokens: Vec<TokenOutput>,
    finish: Option<(FinishReason, Option<StopReason>)>,
    prompt: Option<Vec<TokenOutput>>,
    cached_tokens: usize,
    failed: Option<String>,
}

type Answers = BTreeMap<(u64, u32), Answer>;

const ROOMY: EngineConfig = EngineConfig {
    max_sequences: 64,
    max_batch_tokens: 4096,
    max_context_tokens: 512,
    kv_blocks: 4096,
    prefix_cache: PrefixCache::Tenant,
};

fn engine(config: EngineConfig) -> Engine {
    engine_of(HashModel::new(config.kv_blocks), config)
}

fn engine_of(model: HashModel, config: EngineConfig) -> Engine {
    Engine::new(Box::new(model), Arc::new(Letters::new()), config).unwrap()
}

fn request(id: u64, prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        id: RequestId(id),
        prompt: prompt.to_vec(),
        tenant_salt: 0,
        sampling: Sampling { temperature: 0.0, seed: id, ..Sampling::default() },
        limits: Limits { max_tokens: Some(max_tokens), min_tokens: 0, ignore_eos: true },
        stop: StopRules::default(),
        logprobs: None,
        prompt_logprobs: None,
        skip_special_tokens: true,
    }
}

/// Steps until nothing is left, adding what is told to `answers`.
fn drain(engine: &mut Engine, answers: &mut Answers) {
    for _ in 0..STEPS_MAX {
        if engine.is_idle() {
            return;
        }
        tell(engine.step(), answers);
    }
    panic!("the engine did not come to rest: {:?}", engine.stats());
}

fn tell(events: Vec<Event>, answers: &mut Answers) {
    for event in events {
        match event {
            Event::Scheduled { id, cached_tokens } => {
                answers.entry((id.0, 0)).or_default().cached_tokens = cached_tokens;
            }
            Event::Prompt { id, tokens } => {
                let answer = answers.entry((id.0, 0)).or_default();
                assert!(answer.prompt.is_none() && answer.tokens.is_empty());
                answer.prompt = Some(tokens);
            }
            Event::Output { id, choice, text, tokens } => {
                let answer = answers.entry((id.0, choice)).or_default();
                assert!(answer.finish.is_none(), "output after the end");
                answer.text.push_str(&text);
                answer.tokens.extend(tokens);
            }
            Event::Finished { id, choice, reason, stop_reason, usage, .. } => {
                let answer = answers.entry((id.0, choice)).or_default();
                assert_eq!(usage.completion_tokens, answer.tokens.len());
                assert!(answer.finish.replace((reason, stop_reason)).is_none(), "ended twice");
            }
            Event::Failed { id, error, .. } => {
                answers.entry((id.0, 0)).or_default().failed = Some(error.to_string());
            }
        }
    }
}

/// What a request gets from an engine that serves nobody else.
fn alone(request: Request) -> Answers {
    let mut engine = engine(ROOMY);
    engine.admit(request).unwrap();
    let mut answers = Answers::new();
    drain(&mut engine, &mut answers);
    answers
}

fn ids(answer: &Answer) -> Vec<u32> {
    answer.tokens.iter().map(|token| token.id).collect()
}
