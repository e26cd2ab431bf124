//! A real model serving many at once gives each request, bit for bit, what it would give it alone.
// Clippy's leave for tests does not reach the functions beside them.
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod checkpoints;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use checkpoints::SMOLLM2;
use naru_engine::{
    Decoder, EncodeOptions, Engine, EngineConfig, EngineStats, Event, Limits, LocalDecoder,
    ModelFiles, PrefixCache, Request, RequestId, Sampling, Shard, StopRules, TokenOutput,
    Tokenizer,
};
use naru_kernels::ComputePool;

const REQUESTS: u64 = 32;
const STEPS_MAX: usize = 20_000;

/// Room for few of the requests below, and for half a prompt in a step.
const CRAMPED: EngineConfig = EngineConfig {
    max_sequences: 8,
    max_batch_tokens: 48,
    max_context_tokens: 512,
    kv_blocks: 20,
    prefix_cache: PrefixCache::Tenant,
};

/// Room for everything, and nothing to find in the cache.
const ROOMY: EngineConfig = EngineConfig {
    max_sequences: 8,
    max_batch_tokens: 512,
    max_context_tokens: 512,
    kv_blocks: 256,
    prefix_cache: PrefixCache::Off,
};

/// Beginnings that requests share, each more than two blocks of tokens long.
const BEGINNINGS: [&str; 3] = [
    "You are a patient teacher. You explain one thing at a time, in short sentences, with an \
     example from daily life, and you never use a word that you have not explained before. ",
    "The ferry crosses the river every morning at six. On the near side people wait with baskets, \
     bicycles and goats; on the far side is the market, and beyond it the road to the hills. ",
    "나루는 강을 건너는 배가 닿는 곳이다. Translate the sentence into English, word by word, and say \
     which words are borrowed from Chinese. ",
];

const ENDINGS: [&str; 8] = [
    "Why is the sky blue?",
    "List four fruits and their colours.",
    "One evening the ferryman did not come, and",
    "def crossings(boats, seats):",
    "สวัสดีครับ ผมชื่อ",
    "Explain what a queue is, and what happens when it is full, to a child of seven years who \
     has never stood in one but has often waited for dinner.",
    "1, 1, 2, 3, 5, 8,",
    "مرحبا",
];

fn engine(files: &ModelFiles, tokenizer: Arc<Tokenizer>, config: EngineConfig) -> Engine {
    let threads = NonZeroUsize::new(2).unwrap();
    let pool = Arc::new(ComputePool::start(threads).unwrap());
    let whole = Shard::whole(files.config());
    let decoder = Decoder::load(files, whole, pool, &mut |_| ()).unwrap();
    let forward = LocalDecoder::new(decoder, config.kv_blocks).unwrap();
    Engine::new(Box::new(forward), tokenizer, config).unwrap()
}

/// One of three beginnings, one of eight endings, and a manner of its own. Some have no beginning
/// and a longer answer: they outgrow the cache together.
fn request(id: u64, tokenizer: &Tokenizer) -> Request {
    let grows = id % 16 < 8;
    let beginning = if grows { "" } else { BEGINNINGS[id as usize / 8 % 3] };
    let text = format!("{beginning}{}", ENDINGS[id as usize % 8]);
    let max_tokens = if grows { 40 } else { 4 + id as usize * 5 % 12 };
    let options = EncodeOptions { add_special: true, parse_special: false };
    let seeded = Sampling { seed: id, n: 1 + id as u32 % 7 / 6, ..Sampling::default() };
    let sampling = match id % 6 {
        0 => Sampling { temperature: 0.0, ..seeded },
        1 => Sampling { temperature: 0.7, top_p: 0.9, ..seeded },
        2 => Sampling { top_k: 40, min_p: 0.02, ..seeded },
        3 => Sampling { temperature: 0.0, repetition_penalty: 1.2, ..seeded },
        4 => Sampling { frequency_penalty: 0.6, logit_bias: vec![(260, 2.0)], ..seeded },
        _ => seeded,
    };
    let stop = if grows { Vec::new() } else { vec!["\n".to_owned()] };
    Request {
        id: RequestId(id),
        prompt: tokenizer.encode(&text, options),
        tenant_salt: id % 2,
        sampling,
        limits: Limits { max_tokens: Some(max_tokens), min_tokens: 0, ignore_eos: grows },
        stop: StopRules { strings: stop, ..StopRules::default() },
        logprobs: Some(3),
        prompt_logprobs: (id % 8 == 5).then_some(1),
        skip_special_tokens: true,
    }
}

/// What was told of each choice: its text, and the prompt's tokens where asked for, then its own.
type Told = BTreeMap<(u64, u32), (String, Vec<TokenOutput>)>;

fn serve(engine: &mut Engine, requests: impl Iterator<Item = Request>) -> (Told, EngineStats) {
    let mut told = Told::new();
    let mut arriving = requests.peekable();
    for _ in 0..STEPS_MAX {
        if let Some(request) = arriving.next() {
            engine.admit(request).unwrap();
        }
        for event in engine.step() {
            match event {
                Event::Prompt { id, tokens } => told.entry((id.0, 0)).or_default().1.extend(tokens),
                Event::Output { id, choice, text, tokens } => {
                    let told = told.entry((id.0, choice)).or_default();
                    told.0.push_str(&text);
                    told.1.extend(tokens);
                }
                Event::Failed { id, error, .. } => panic!("request {id:?}: {error}"),
                Event::Scheduled { .. } | Event::Finished { .. } => {}
            }
        }
        if engine.is_idle() && arriving.peek().is_none() {
            return (told, engine.stats());
        }
    }
    panic!("the engine did not come to rest: {:?}", engine.stats());
}

#[test]
fn thirty_two_mixed_requests_each_equal_themselves_alone() {
    let files = checkpoints::open(SMOLLM2);
    let tokenizer = Arc::new(Tokenizer::of_model(&files).unwrap());
    let requests = (0..REQUESTS).map(|id| request(id, &tokenizer));
    let mut cramped = engine(&files, tokenizer.clone(), CRAMPED);
    let (company, stats) = serve(&mut cramped, requests.clone());
    println!(
        "{} steps, {} preemptions, {} partial prefills, {} of {} prompt tokens found in the cache",
        stats.steps_total,
        stats.preemptions_total,
        stats.partial_prefills_total,
        stats.prefix_hit_tokens_total,
        stats.prefix_query_tokens_total,
    );
    assert!(stats.preemptions_total > 0, "nobody was preempted");
    assert!(stats.partial_prefills_total > 0, "no prompt was cut");
    assert!(stats.prefix_hit_tokens_total > 0, "no prefix was reused");
    assert_eq!(stats.kv_blocks_used, 0, "blocks leaked");

    let mut roomy = engine(&files, tokenizer.clone(), ROOMY);
    let mut alone = Told::new();
    for request in requests {
        alone.extend(serve(&mut roomy, std::iter::once(request)).0);
    }
    assert_eq!(roomy.stats().preemptions_total, 0);
    assert_eq!(company.len(), alone.len());
    for (key, alone) in &alone {
        assert_eq!(&company[key], alone, "request and choice {key:?}");
    }
}
