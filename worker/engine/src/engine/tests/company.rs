//! A request's answer is its own: company, chunks, preemption and cached prefixes leave no trace.

use proptest::prelude::*;

use super::*;

/// Requests of random shape over three shared beginnings and two tenants.
fn requests() -> impl Strategy<Value = Vec<Request>> {
    let shape = (0..3_u32, 0..70_usize, 1..20_usize, 1..60_usize, any::<u64>());
    let manner = (0..6_u32, 1..4_u32, prop::option::of(0..3_u32), any::<bool>(), 0..8_u32);
    prop::collection::vec((shape, manner), 1..32).prop_map(|all| {
        let ids = 0..all.len() as u64;
        ids.zip(all).map(|(id, (shape, manner))| one(id, shape, manner)).collect()
    })
}

fn one(
    id: u64,
    (beginning, shared, own, max_tokens, seed): (u32, usize, usize, usize, u64),
    (style, n, logprobs, ignore_eos, prompt): (u32, u32, Option<u32>, bool, u32),
) -> Request {
    let shared = (0..shared as u32).map(|index| (index * 7 + beginning * 11) % 50 + 5);
    let own = (0..own as u32).map(|index| (index * 13 + id as u32) % 50 + 5);
    let mut sampling = Sampling { seed, n, ..Sampling::default() };
    match style {
        0 | 1 => sampling.temperature = 0.0,
        2 => sampling.top_k = 5,
        3 => sampling.top_p = 0.8,
        4 => (sampling.min_p, sampling.repetition_penalty) = (0.05, 1.3),
        _ => (sampling.frequency_penalty, sampling.logit_bias) = (0.5, vec![(9, 3.0)]),
    }
    let mut request = request(id, &shared.chain(own).collect::<Vec<_>>(), max_tokens);
    request.sampling = sampling;
    request.tenant_salt = seed % 2;
    request.limits.ignore_eos = ignore_eos;
    request.limits.min_tokens = max_tokens.min(3);
    request.stop.strings = vec!["zq".into(), "xyx".into()];
    request.logprobs = logprobs;
    request.prompt_logprobs = (prompt == 0).then_some(2);
    request
}

fn cramped() -> impl Strategy<Value = EngineConfig> {
    let cache = prop_oneof![Just(PrefixCache::Tenant), Just(PrefixCache::Off)];
    (1..12_usize, 1..40_usize, 10..40_usize, cache).prop_map(
        |(max_sequences, extra_tokens, kv_blocks, prefix_cache)| EngineConfig {
            max_sequences,
            max_batch_tokens: max_sequences + extra_tokens,
            max_context_tokens: 512,
            kv_blocks,
            prefix_cache,
        },
    )
}

/// Serves all requests in company: one arrives every `pace` steps; those of `cancelled` go at the
/// step given. Returns what was told, in order.
fn serve(
    config: EngineConfig,
    requests: &[Request],
    pace: usize,
    cancelled: &[(u64, usize)],
) -> (Vec<Event>, Engine) {
    let mut engine = engine(config);
    let mut arriving = requests.iter();
    let mut events = Vec::new();
    for step in 0..STEPS_MAX {
        if step % pace == 0
            && let Some(request) = arriving.next()
        {
            engine.admit(request.clone()).unwrap();
        }
        for (id, _) in cancelled.iter().filter(|(_, at)| *at == step) {
            engine.cancel(RequestId(*id));
        }
        events.extend(engine.step());
        engine.flight.scheduler.check();
        if engine.is_idle() && arriving.len() == 0 {
            return (events, engine);
        }
    }
    panic!("somebody starved: {:?}", engine.stats());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn each_answer_is_as_if_alone(
        requests in requests(),
        config in cramped(),
        pace in 1..4_usize,
        cancelled in prop::collection::vec((0..32_u64, 0..60_usize), 0..6),
    ) {
        let (events, engine) = serve(config, &requests, pace, &cancelled);
        let (again, _) = serve(config, &requests, pace, &cancelled);
        prop_assert_eq!(&events, &again, "the same calls told something else");
        let stats = engine.stats();
        prop_assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
        let mut answers = Answers::new();
        tell(events, &mut answers);
        for request in &requests {
            let expected = alone(request.clone());
            for ((id, choice), expected) in &expected {
                let Some(answer) = answers.get(&(*id, *choice)) else {
                    prop_assert!(false, "choice {choice} of {id} was told nothing");
                    continue;
                };
                prop_assert!(answer.failed.is_none());
                if answer.finish == Some((FinishReason::Cancelled, None)) {
                    let told = answer.tokens.len();
                    prop_assert_eq!(&answer.tokens[..], &expected.tokens[..told]);
                    prop_assert!(expected.text.starts_with(&answer.text));
                } else {
                    prop_assert_eq!(&answer.tokens, &expected.tokens, "{} {}", id, choice);
                    prop_assert_eq!(&answer.text, &expected.text);
                    prop_assert_eq!(&answer.finish, &expected.finish);
                    prop_assert_eq!(&answer.prompt, &expected.prompt);
                }
            }
        }
    }
}

/// The property above would hold of an engine that never shares, cuts or preempts: this one does.
#[test]
fn thirty_two_requests_are_cut_preempted_and_shared() {
    let requests: Vec<Request> = (0..32)
        .map(|id| one(id, (0, 60, 9, 40, id), (id as u32 % 6, 1 + id as u32 % 2, None, true, 1)))
        .collect();
    let config = EngineConfig { max_sequences: 8, max_batch_tokens: 24, kv_blocks: 24, ..ROOMY };
    let (events, engine) = serve(config, &requests, 1, &[]);
    let stats = engine.stats();
    assert!(stats.preemptions_total > 0, "{stats:?}");
    assert!(stats.partial_prefills_total > 0, "{stats:?}");
    assert!(stats.prefix_hit_tokens_total > 0, "{stats:?}");
    let mut answers = Answers::new();
    tell(events, &mut answers);
    for request in requests {
        for (key, expected) in alone(request) {
            assert_eq!(answers[&key].tokens, expected.tokens);
        }
    }
}
