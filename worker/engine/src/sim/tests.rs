use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, json};

use super::text::vocabulary_len;
use super::{SIM_PROFILES, SimModel, SimProfile};
use crate::engine::{Engine, EngineConfig, PrefixCache};
use crate::event::{Event, FinishReason};
use crate::request::{Limits, Request, RequestId, StopRules};
use crate::sampling::Sampling;
use crate::template::{ChatInput, ChatTemplate, UnixSeconds};
use crate::tokenizer::{EncodeOptions, Tokenizer};

const ROOMY: EngineConfig = EngineConfig {
    max_sequences: 64,
    max_batch_tokens: 4096,
    max_context_tokens: 4096,
    kv_blocks: 4096,
    prefix_cache: PrefixCache::Tenant,
};
/// Far more than any of these tests needs.
const STEPS_MAX: usize = 100_000;

fn engine(profile: &str, config: EngineConfig) -> Engine {
    let model = SimModel::new(SimProfile::named(profile).unwrap(), config.kv_blocks);
    Engine::new(Box::new(model), Arc::new(Tokenizer::of_sim()), config).unwrap()
}

fn request(id: u64, prompt: &str, temperature: f32) -> Request {
    let options = EncodeOptions { parse_special: true, ..EncodeOptions::default() };
    Request {
        id: RequestId(id),
        prompt: Tokenizer::of_sim().encode(prompt, options),
        tenant_salt: 0,
        sampling: Sampling { temperature, seed: id, ..Sampling::default() },
        limits: Limits { max_tokens: Some(60), min_tokens: 0, ignore_eos: true },
        stop: StopRules::default(),
        logprobs: None,
        prompt_logprobs: None,
        skip_special_tokens: true,
    }
}

fn drain(engine: &mut Engine) -> BTreeMap<u64, (String, Option<FinishReason>)> {
    let mut answers: BTreeMap<u64, (String, Option<FinishReason>)> = BTreeMap::new();
    for _ in 0..STEPS_MAX {
        if engine.is_idle() {
            return answers;
        }
        for event in engine.step() {
            match event {
                Event::Output { id, text, .. } => {
                    answers.entry(id.0).or_default().0.push_str(&text);
                }
                Event::Finished { id, reason, .. } => {
                    answers.entry(id.0).or_default().1 = Some(reason);
                }
                Event::Failed { error, .. } => panic!("{error}"),
                Event::Scheduled { .. } | Event::Prompt { .. } => {}
            }
        }
    }
    panic!("the engine did not come to rest: {:?}", engine.stats());
}

#[test]
fn an_answer_is_the_same_in_any_company_and_on_any_accelerator() {
    let cramped = EngineConfig { max_sequences: 9, max_batch_tokens: 17, kv_blocks: 40, ..ROOMY };
    let prompt = |id: u64| format!("<|user|>Question {} of the day, asked at length", id % 5);
    let ask = |id: u64| request(id, &prompt(id), (id % 3) as f32 * 0.6);
    let mut crowded = engine("qwen3-32b-2xh100", cramped);
    (0..24).for_each(|id| crowded.admit(ask(id)).unwrap());
    let together = drain(&mut crowded);
    let stats = crowded.stats();
    assert!(stats.preemptions_total > 0 && stats.partial_prefills_total > 0, "{stats:?}");
    assert!(stats.prefix_hit_tokens_total > 0, "{stats:?}");
    for id in 0..24 {
        let mut alone = engine("llama-3.1-8b-h100", ROOMY);
        alone.admit(ask(id)).unwrap();
        assert_eq!(drain(&mut alone)[&id], together[&id], "request {id}");
    }
    let texts: BTreeSet<_> = together.values().map(|(text, _)| text).collect();
    assert!(texts.len() >= 15, "prompts and seeds make a difference: {texts:?}");
}

#[test]
fn answers_are_words_and_come_to_an_end() {
    let mut engine = engine("llama-3.1-8b-h100", ROOMY);
    for id in 0..60 {
        let mut request = request(id, &format!("<|user|>{id}<|end|><|assistant|>"), 0.0);
        request.limits = Limits { max_tokens: Some(2000), min_tokens: 0, ignore_eos: false };
        engine.admit(request).unwrap();
    }
    let answers = drain(&mut engine);
    let words = |text: &str| text.split_ascii_whitespace().count();
    let mut lengths: Vec<usize> = answers.values().map(|(text, _)| words(text)).collect();
    lengths.sort_unstable();
    assert!(lengths[0] >= 15, "{lengths:?}");
    assert!((60..250).contains(&lengths[30]), "{lengths:?}");
    for (text, reason) in answers.values() {
        assert_eq!(*reason, Some(FinishReason::Stop));
        assert!(text.chars().all(|c| c == ' ' || c.is_ascii_lowercase()), "{text}");
    }
}

#[test]
fn text_is_read_back_as_the_tokens_that_wrote_it() {
    let tokenizer = Tokenizer::of_sim();
    assert_eq!(tokenizer.vocab_size(), vocabulary_len());
    let options = EncodeOptions { parse_special: true, ..EncodeOptions::default() };
    for id in 0..tokenizer.vocab_size() as u32 {
        let Ok(text) = std::str::from_utf8(tokenizer.token_bytes(id)) else { continue };
        assert_eq!(tokenizer.encode(text, options), [id], "{text:?}: no word is there twice");
    }
    for text in ["나루 is a ferry landing.\n", " the river bank", "é\u{1f6a2}"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, options), false), text);
    }
}

#[test]
fn a_conversation_becomes_turns() {
    let template = ChatTemplate::of_sim();
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]);
    let tools = json!([{"type": "function"}]);
    let mut input = ChatInput {
        messages: &messages,
        tools: None,
        documents: None,
        add_generation_prompt: true,
        continue_final_message: false,
        kwargs: &Map::new(),
        now: UnixSeconds(0),
    };
    let turns = "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>";
    assert_eq!(template.render(&input).unwrap(), turns);
    input.tools = Some(&tools);
    let with_tools = template.render(&input).unwrap();
    assert!(with_tools.starts_with("<|system|>[{\"type\""), "{with_tools}");
    let stranger = json!([{"role": "stranger", "content": "Hi"}]);
    input.messages = &stranger;
    assert!(template.render(&input).unwrap_err().is_request_fault());
}

#[track_caller]
fn check(fact: &str, value: f64, expected: f64) {
    assert!((value - expected).abs() <= 1e-9 * expected.abs(), "{fact}: {value}, not {expected}");
}

#[test]
fn the_time_of_a_step() {
    let profile = SimProfile::named("llama-3.1-8b-h100").unwrap();
    let seconds = |decoding, prefill| profile.step_cost(decoding, prefill).seconds;
    check("one sequence", seconds(1, 0), 6.67e-3 + 0.076e-3);
    check("a batch of 64", seconds(64, 0), 6.67e-3 + 64.0 * 0.076e-3);
    check("a little prefill hides beneath the weights", seconds(0, 16), 6.67e-3);
    check("much of it takes its own time", seconds(0, 24_300), 1.0);
    check("both at once", seconds(10, 2430), 0.1 + 10.0 * 0.076e-3);
}

#[test]
fn the_watts_of_a_step() {
    let profile = SimProfile::named("llama-3.1-8b-h100").unwrap();
    let watts = |decoding, prefill| profile.step_cost(decoding, prefill).watts;
    check("one sequence", watts(1, 0), 343.0);
    check("each doubling adds as much", watts(8, 0), 343.0 + 3.0 * 44.9);
    check("prefill makes a batch larger", watts(2, 62), 343.0 + 6.0 * 44.9);
    check("no more than the limit", watts(64, 4096), 700.0);
    let two = SimProfile::named("qwen3-32b-2xh100").unwrap();
    check("two devices draw twice as much", two.step_cost(1, 0).watts, 626.0);
    for profile in SIM_PROFILES {
        let mut last = profile.idle_watts();
        for tokens in [1, 2, 7, 64, 512, 8192, usize::MAX / 2] {
            let watts = profile.step_cost(0, tokens).watts;
            assert!(watts >= last && watts <= profile.watts_max(), "{}: {watts}", profile.name);
            last = watts;
        }
        check(profile.name, last, profile.watts_max());
    }
}

#[test]
fn every_profile_can_be_named_and_has_room() {
    for profile in SIM_PROFILES {
        assert_eq!(SimProfile::named(profile.name), Some(profile));
        let tokens = profile.kv_memory_bytes() / profile.kv_bytes_per_token;
        assert!(tokens as usize > profile.context_tokens, "{}: {tokens}", profile.name);
        assert!(profile.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)));
    }
    assert_eq!(SimProfile::named("gpt-9"), None);
}

#[test]
fn an_engine_tells_what_its_last_step_would_have_cost() {
    let profile = SimProfile::default_profile();
    let mut engine = engine(profile.name, ROOMY);
    assert_eq!(engine.simulated_cost(), None);
    let prompt = "0123456789".repeat(10);
    engine.admit(request(1, &prompt, 0.0)).unwrap();
    engine.admit(request(2, &prompt[..50], 0.0)).unwrap();
    engine.step();
    assert_eq!(engine.simulated_cost(), Some(profile.step_cost(0, 150)));
    engine.step();
    assert_eq!(engine.simulated_cost(), Some(profile.step_cost(2, 0)));
    engine.cancel(RequestId(1));
    engine.cancel(RequestId(2));
    engine.step();
    assert_eq!(engine.simulated_cost(), None, "nothing was computed");
}
