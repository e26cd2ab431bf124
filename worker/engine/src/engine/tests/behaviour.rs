//! What each part of a request does.

use super::hash_model::{EOS, SPECIAL, VOCAB};
use super::*;
use crate::request::{Refusal, WAITING_CHOICES_MAX};

fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|index| index % 40 + 5).collect()
}

fn one(request: Request) -> Answer {
    alone(request).remove(&(request_id(), 0)).unwrap()
}

fn request_id() -> u64 {
    9
}

fn ask(max_tokens: usize) -> Request {
    request(request_id(), &prompt(20), max_tokens)
}

#[test]
fn length_ends_an_answer() {
    let answer = one(ask(7));
    assert_eq!(answer.tokens.len(), 7);
    assert_eq!(answer.finish, Some((FinishReason::Length, None)));
    let nothing = one(ask(0));
    assert_eq!((nothing.tokens.len(), nothing.text.as_str()), (0, ""));
    assert_eq!(nothing.finish, Some((FinishReason::Length, None)));
}

#[test]
fn the_context_ends_an_answer_without_max_tokens() {
    let mut request = ask(1);
    request.limits.max_tokens = None;
    let answer = one(request);
    assert_eq!(answer.tokens.len(), ROOMY.max_context_tokens - 20);
    assert_eq!(answer.finish, Some((FinishReason::Length, None)));
}

#[test]
fn stop_tokens_and_eos_end_an_answer_and_leave_no_text() {
    let free = one(ask(40));
    let last = ids(&free)[12];
    let first = ids(&free).iter().position(|id| *id == last).unwrap();
    let mut stopped = ask(40);
    stopped.stop.token_ids = vec![last];
    let answer = one(stopped.clone());
    assert_eq!(ids(&answer), ids(&free)[..=first]);
    assert_eq!(answer.finish, Some((FinishReason::Stop, Some(StopReason::Token(last)))));
    assert!(free.text.starts_with(&answer.text) && answer.text.len() < free.text.len());

    stopped.stop.include_stop_str_in_output = true;
    assert!(one(stopped.clone()).text.len() > answer.text.len());

    stopped.limits.min_tokens = 30;
    let longer = one(stopped);
    assert!(longer.tokens.len() > 30, "{} tokens", longer.tokens.len());

    let mut biased = ask(40);
    biased.limits.ignore_eos = false;
    biased.sampling.logit_bias = vec![(EOS, 100.0)];
    let answer = one(biased.clone());
    assert_eq!((ids(&answer), answer.finish), (vec![EOS], Some((FinishReason::Stop, None))));
    assert_eq!(answer.text, "");
    biased.limits.min_tokens = 4;
    assert_eq!(one(biased.clone()).tokens.len(), 5, "four tokens, and then at once the end");
    biased.limits.ignore_eos = true;
    assert_eq!(one(biased).tokens.len(), 40);
}

#[test]
fn a_stop_string_ends_an_answer_at_the_token_that_completes_it() {
    let free = one(ask(40));
    let stop = free.text[9..13].to_owned();
    let mut request = ask(40);
    request.stop.strings = vec![stop.clone()];
    let answer = one(request.clone());
    let end = free.text.find(&stop).unwrap();
    assert_eq!(answer.text, free.text[..end]);
    assert!(answer.tokens.len() < free.tokens.len());
    assert_eq!(answer.finish, Some((FinishReason::Stop, Some(StopReason::String(stop.clone())))));
    request.stop.include_stop_str_in_output = true;
    assert_eq!(one(request).text, free.text[..end + stop.len()]);
}

#[test]
fn special_tokens_are_text_only_where_asked() {
    let mut request = ask(2);
    request.sampling.logit_bias = vec![(SPECIAL, 100.0)];
    assert_eq!(one(request.clone()).text, "");
    request.skip_special_tokens = false;
    assert_eq!(one(request).text, "<special><special>");
}

#[test]
fn choices_differ_by_their_randomness_and_share_the_prompt() {
    for prefix_cache in [PrefixCache::Tenant, PrefixCache::Off] {
        let mut asked = ask(12);
        asked.prompt = prompt(100);
        asked.sampling = Sampling { n: 3, seed: 5, ..Sampling::default() };
        let mut engine = engine(EngineConfig { prefix_cache, ..ROOMY });
        engine.admit(asked).unwrap();
        let mut answers = Answers::new();
        tell(engine.step(), &mut answers);
        tell(engine.step(), &mut answers);
        let stats = engine.stats();
        assert_eq!(stats.running, 3);
        assert_eq!(stats.kv_blocks_used, 6 + 3, "six shared blocks and a last one each");
        drain(&mut engine, &mut answers);
        let texts: std::collections::BTreeSet<_> = answers.values().map(|a| &a.text).collect();
        assert_eq!((answers.len(), texts.len()), (3, 3));
    }
}

#[test]
fn a_tenant_reuses_its_own_prefixes_and_nobody_elses() {
    let mut engine = engine(ROOMY);
    let mut cached = |id: u64, tenant_salt: u64, tokens: usize| {
        engine.admit(Request { tenant_salt, ..request(id, &prompt(tokens), 2) }).unwrap();
        let mut answers = Answers::new();
        drain(&mut engine, &mut answers);
        answers[&(id, 0)].cached_tokens
    };
    assert_eq!(cached(0, 7, 64), 0, "nothing is known yet");
    assert_eq!(cached(1, 7, 64), 48, "the last token is computed, so its block is");
    assert_eq!(cached(2, 7, 65), 64);
    assert_eq!(cached(3, 7, 40), 32, "whole blocks only");
    assert_eq!(cached(4, 8, 64), 0, "another tenant");
    let stats = engine.stats();
    assert_eq!(stats.prefix_query_tokens_total, 64 * 3 + 65 + 40);
    assert_eq!(stats.prefix_hit_tokens_total, 48 + 64 + 32);
    assert_eq!(stats.kv_blocks_used, 0);
    assert!(stats.kv_blocks_cached > 0);
}

#[test]
fn prompt_logprobs_cover_the_prompt_however_it_is_cut() {
    let mut asked = ask(3);
    asked.prompt = prompt(100);
    asked.prompt_logprobs = Some(2);
    asked.logprobs = Some(2);
    asked.sampling.n = 2;
    let told = alone(asked.clone());
    let rows = told[&(9, 0)].prompt.clone().unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), asked.prompt[1..]);
    assert!(rows.iter().all(|row| row.logprobs.as_ref().is_some_and(|l| l.top.len() == 2)));
    assert_eq!(told[&(9, 1)].prompt, None, "once per request");

    let mut engine = engine(EngineConfig { max_batch_tokens: 9, max_sequences: 4, ..ROOMY });
    engine.admit(asked).unwrap();
    let mut answers = Answers::new();
    drain(&mut engine, &mut answers);
    assert_eq!(answers, told);
}

#[test]
fn cancelling_frees_everything() {
    let mut engine = engine(EngineConfig { max_sequences: 2, ..ROOMY });
    for id in 0..4 {
        engine.admit(request(id, &prompt(40), 50)).unwrap();
    }
    let mut answers = Answers::new();
    tell(engine.step(), &mut answers);
    (0..4).for_each(|id| engine.cancel(RequestId(id)));
    engine.cancel(RequestId(77));
    assert_eq!(engine.stats().kv_blocks_used, 0);
    assert!(!engine.is_idle(), "there is news");
    tell(engine.step(), &mut answers);
    assert!(engine.is_idle());
    assert_eq!(answers.len(), 4);
    let reason = |answer: &Answer| answer.finish.clone().map(|(reason, _)| reason);
    assert!(answers.values().all(|answer| reason(answer) == Some(FinishReason::Cancelled)));
    engine.admit(request(0, &prompt(40), 1)).unwrap();
    drain(&mut engine, &mut answers.split_off(&(9, 9)));
}

#[test]
fn a_failed_step_fails_its_requests_only() {
    let mut model = HashModel::new(ROOMY.kv_blocks);
    model.failing = vec![2];
    let mut engine = engine_of(model, EngineConfig { max_sequences: 2, ..ROOMY });
    for id in 0..3 {
        engine.admit(request(id, &prompt(40), 5)).unwrap();
    }
    let mut answers = Answers::new();
    drain(&mut engine, &mut answers);
    for id in 0..2 {
        assert_eq!(answers[&(id, 0)].failed.as_deref(), Some("the hash ran dry"));
    }
    assert_eq!(answers[&(2, 0)].tokens.len(), 5, "it waited while the others failed");
    assert_eq!(engine.stats().steps_failed_total, 1);
    assert_eq!(engine.stats().kv_blocks_used, 0);
}

#[test]
fn refuses_what_cannot_be_served() {
    let check = |why: &str, change: &dyn Fn(&mut Request), expected: &str| {
        let mut engine = engine(EngineConfig { kv_blocks: 4, ..ROOMY });
        engine.admit(request(1, &prompt(3), 3)).unwrap();
        let mut refused = ask(10);
        change(&mut refused);
        let refusal = match engine.admit(refused).unwrap_err() {
            Refusal::Sampling(error) => error.to_string(),
            refusal => refusal.to_string(),
        };
        assert_eq!(refusal, expected, "{why}");
    };
    check("no prompt", &|r| r.prompt.clear(), "the prompt has no tokens");
    check("known id", &|r| r.id = RequestId(1), "request RequestId(1) is already running");
    let overflow = "the context holds 64 tokens; the prompt has 20 and 45 more were asked for";
    check("more than the KV cache holds", &|r| r.limits.max_tokens = Some(45), overflow);
    let overflow = "the context holds 64 tokens; the prompt has 64 and 1 more were asked for";
    check(
        "no room for an answer",
        &|r| {
            r.prompt = prompt(64);
            r.limits.max_tokens = None;
        },
        overflow,
    );
    let unknown = "token 64 is outside the vocabulary of 64";
    check("a token the model has not", &|r| r.prompt[3] = VOCAB as u32, unknown);
    let k = "logprobs must be at most 20, was 21";
    check("too many logprobs", &|r| r.logprobs = Some(21), k);
    let n = "n must be 1 to 128, was 0";
    check("no choice", &|r| r.sampling.n = 0, n);
    let m = "min_tokens must be at most max_tokens (10), was 11";
    check("impossible length", &|r| r.limits.min_tokens = 11, m);
}

#[test]
fn the_queue_is_bounded() {
    let mut engine = engine(ROOMY);
    let mut asked = ask(1);
    asked.sampling.n = 128;
    for id in 0..WAITING_CHOICES_MAX as u64 / 128 {
        engine.admit(Request { id: RequestId(id), ..asked.clone() }).unwrap();
    }
    let refusal = engine.admit(Request { id: RequestId(99), ..asked }).unwrap_err();
    assert_eq!(refusal, Refusal::QueueFull { waiting: WAITING_CHOICES_MAX });
    drain(&mut engine, &mut Answers::new());
}

#[test]
fn a_restart_fails_what_runs_and_forgets_what_was_computed() {
    let mut engine = engine(ROOMY);
    let mut answers = Answers::new();
    engine.admit(request(1, &prompt(64), 4)).unwrap();
    drain(&mut engine, &mut answers);
    assert!(engine.stats().kv_blocks_cached > 0);
    engine.admit(request(2, &prompt(64), 40)).unwrap();
    engine.step();
    engine.admit(request(3, &prompt(20), 4)).unwrap();
    engine.restart("rank 1 is lost");
    let failed = engine.step().into_iter().filter_map(|event| match event {
        Event::Failed { id, error, elsewhere } => Some((id.0, error.to_string(), elsewhere)),
        _ => None,
    });
    let why = || "rank 1 is lost".to_owned();
    assert_eq!(failed.collect::<Vec<_>>(), [(2, why(), true), (3, why(), true)]);
    assert!(engine.is_idle());
    let stats = engine.stats();
    assert_eq!((stats.kv_blocks_used, stats.kv_blocks_cached), (0, 0));
    engine.admit(request(4, &prompt(64), 4)).unwrap();
    drain(&mut engine, &mut answers);
    assert_eq!(answers[&(4, 0)].cached_tokens, 0, "a prefix of before was found");
    assert_eq!(ids(&answers[&(4, 0)]), ids(&answers[&(1, 0)]));
}
