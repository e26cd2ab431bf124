//! Sampling against its plain definition: sort everything, in double precision.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::adjust::apply;
use super::random::uniform;
use super::*;

fn sampling(change: impl FnOnce(&mut Sampling)) -> Sampling {
    let mut sampling = Sampling::default();
    change(&mut sampling);
    sampling
}

/// Draws at positions 0.. and counts what came.
fn draws(logits: &[f32], sampling: &Sampling, count: usize) -> BTreeMap<u32, usize> {
    let mut sampler = Sampler::default();
    let history = History::default();
    let mut seen = BTreeMap::new();
    for position in 0..count {
        let draw = Draw { choice: 0, position };
        let token = sampler.sample(logits, sampling, &history, &[], draw).unwrap();
        *seen.entry(token).or_default() += 1;
    }
    seen
}

/// Tokens that may be drawn, with their probabilities, by the definition: min_p, then top_k, then
/// top_p, each over what the one before left.
fn by_definition(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let scaled = |logit: f32| f64::from(logit) / f64::from(sampling.temperature);
    let max = logits.iter().copied().map(scaled).fold(f64::NEG_INFINITY, f64::max);
    let mut tokens: Vec<(u32, f64)> = (0..)
        .zip(logits)
        .map(|(id, &logit)| (id, (scaled(logit) - max).exp()))
        .filter(|(_, weight)| *weight >= f64::from(sampling.min_p))
        .collect();
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampling.top_k > 0 {
        tokens.truncate(sampling.top_k as usize);
    }
    let mass: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    let mut before = 0.0;
    tokens.retain(|(_, weight)| {
        let kept = before == 0.0 || before < mass * f64::from(sampling.top_p);
        before += weight;
        kept
    });
    let mass: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    tokens.iter_mut().for_each(|(_, weight)| *weight /= mass);
    tokens
}

const DRAWS: usize = 20_000;

fn check_distribution(why: &str, logits: &[f32], sampling: &Sampling) {
    check_drawn(why, logits, sampling, &draws(logits, sampling, DRAWS));
}

/// Draws follow the definition: nothing outside it, and every frequency within 5 deviations.
fn check_drawn(why: &str, logits: &[f32], sampling: &Sampling, seen: &BTreeMap<u32, usize>) {
    let expected: BTreeMap<u32, f64> = by_definition(logits, sampling).into_iter().collect();
    let stray = seen.keys().find(|id| !expected.contains_key(id));
    assert_eq!(stray, None, "{why}: drawn though left out");
    for (id, probability) in expected {
        let count = *seen.get(&id).unwrap_or(&0) as f64;
        let mean = probability * DRAWS as f64;
        let deviation = (mean * (1.0 - probability)).sqrt().max(1.0);
        let off = (count - mean).abs() / deviation;
        assert!(off < 5.0, "{why}: token {id} came {count} times, expected {mean}");
    }
}

#[test]
fn draws_follow_the_definition() {
    let logits: Vec<f32> = (0..40).map(|id| ((id * 17) % 40) as f32 / 6.0).collect();
    check_distribution("plain", &logits, &sampling(|_| ()));
    check_distribution("cool", &logits, &sampling(|s| s.temperature = 0.3));
    check_distribution("hot", &logits, &sampling(|s| s.temperature = 2.0));
    check_distribution("top_k", &logits, &sampling(|s| s.top_k = 3));
    check_distribution("top_p", &logits, &sampling(|s| s.top_p = 0.7));
    check_distribution("min_p", &logits, &sampling(|s| s.min_p = 0.2));
    let all = |s: &mut Sampling| (s.top_k, s.top_p, s.min_p, s.temperature) = (9, 0.9, 0.1, 1.5);
    check_distribution("all", &logits, &sampling(all));
    let flat: Vec<f32> = (0..3000).map(|id| (id % 7) as f32 / 100.0).collect();
    check_distribution("flat rows end in the last blocks too", &flat, &sampling(|_| ()));
    check_distribution("flat top_p", &flat, &sampling(|s| s.top_p = 0.5));
}

/// The way for rows in which top_p keeps thousands of tokens, on rows small enough to count.
#[test]
fn wide_draws_follow_the_definition() {
    let mut logits: Vec<f32> = (0..40).map(|id| ((id * 17) % 40) as f32 / 6.0).collect();
    logits.extend([f32::NAN, f32::NEG_INFINITY]);
    for (top_p, min_p, temperature) in [(0.7, 0.0, 1.0), (0.9, 0.05, 2.0), (0.2, 0.0, 0.5)] {
        let sampling = Sampling { top_p, min_p, temperature, ..Sampling::default() };
        let max = row::max(&logits);
        let floor = max + min_p.ln() * temperature;
        let weigh = row::Weigh { max, scale: 1.0 / temperature, floor };
        let mass = weigh.mass(&logits) * f64::from(top_p);
        let mut nucleus = wide::WideNucleus::default();
        let mut seen = BTreeMap::new();
        for position in 0..DRAWS {
            let token = nucleus.draw(&logits, weigh, mass, uniform(0, 0, position)).unwrap();
            *seen.entry(token).or_default() += 1;
        }
        check_drawn("wide", &logits[..40], &sampling, &seen);
    }
}

#[test]
fn a_flat_row_of_a_real_vocabulary_keeps_its_share() {
    let logits: Vec<f32> = (0..50_000_u64).map(|id| (id * 7919 % 50_000) as f32 / 25e3).collect();
    let sampling = sampling(|s| s.top_p = 0.6);
    let kept = by_definition(&logits, &sampling);
    assert!(kept.len() > 10_000);
    let (best, least) = (kept[kept.len() / 3].1, kept[kept.len() - 1].1);
    let expected: f64 = kept.iter().filter(|(_, p)| *p >= best).map(|(_, p)| p).sum();
    let seen = draws(&logits, &sampling, 4000);
    let probability: BTreeMap<u32, f64> = kept.into_iter().collect();
    let likely: usize =
        seen.iter().filter(|(id, _)| probability[id] >= best).map(|(_, count)| count).sum();
    assert!(seen.keys().all(|id| probability[id] >= least));
    assert!((likely as f64 / 4000.0 - expected).abs() < 5.0 * (0.25_f64 / 4000.0).sqrt());
}

#[test]
fn greedy_takes_the_likeliest_and_of_equals_the_first() {
    let greedy = sampling(|s| s.temperature = 0.0);
    let check = |why: &str, logits: &[f32], expected: u32| {
        assert_eq!(draws(logits, &greedy, 1), BTreeMap::from([(expected, 1)]), "{why}");
    };
    check("the largest", &[1.0, 3.0, 2.0], 1);
    check("the first of equals", &[1.0, 3.0, 3.0], 1);
    check("NaN is nothing", &[f32::NAN, -3.0, f32::NAN], 1);
    check("one is infinite", &[1.0, f32::INFINITY, 2.0], 1);
    for change in [
        (|s| s.top_k = 1) as fn(&mut Sampling),
        |s| s.top_p = 0.0,
        |s| s.min_p = 1.0,
        |s| s.temperature = 1e-6,
    ] {
        assert_eq!(draws(&[0.0, 0.5, 0.4], &sampling(change), 50), BTreeMap::from([(1, 50)]));
    }
}

#[test]
fn what_is_not_a_number_is_never_drawn() {
    let mut logits = vec![0.5; 100];
    logits[7] = f32::NAN;
    logits[8] = f32::NEG_INFINITY;
    for top_p in [1.0, 0.99] {
        let seen = draws(&logits, &sampling(|s| s.top_p = top_p), 5000);
        assert!(!seen.contains_key(&7) && !seen.contains_key(&8));
        assert!(seen.len() > 90);
    }
    let none = Sampler::default().sample(
        &[f32::NAN, f32::NEG_INFINITY],
        &sampling(|_| ()),
        &History::default(),
        &[],
        Draw { choice: 0, position: 0 },
    );
    assert_eq!(none, None);
}

#[test]
fn bias_penalties_and_masks_change_their_tokens_only() {
    let check = |why: &str, change: fn(&mut Sampling), expected: [f32; 5]| {
        let sampling = sampling(change);
        let mut history = History::new(&[0, 1, 1], &sampling);
        [2, 2, 1].into_iter().for_each(|token| history.push(token));
        let mut logits = [1.0, -1.0, 2.0, 3.0, 4.0];
        apply(&mut logits, &sampling, &history, &[4, 99]);
        assert_eq!(logits, expected, "{why}");
    };
    let masked = f32::NEG_INFINITY;
    check("masks", |_| (), [1.0, -1.0, 2.0, 3.0, masked]);
    let bias = |s: &mut Sampling| s.logit_bias = vec![(3, -1.5), (0, 2.0)];
    check("bias", bias, [3.0, -1.0, 2.0, 1.5, masked]);
    let repetition = |s: &mut Sampling| s.repetition_penalty = 2.0;
    check("repetition, of prompt and output", repetition, [0.5, -2.0, 1.0, 3.0, masked]);
    let presence = |s: &mut Sampling| s.presence_penalty = 0.5;
    check("presence, of output only", presence, [1.0, -1.5, 1.5, 3.0, masked]);
    let frequency = |s: &mut Sampling| s.frequency_penalty = 0.5;
    check("frequency, by count", frequency, [1.0, -1.5, 1.0, 3.0, masked]);
    let order = |s: &mut Sampling| (s.logit_bias, s.repetition_penalty) = (vec![(1, 2.0)], 2.0);
    check("bias before penalties", order, [0.5, 0.5, 1.0, 3.0, masked]);
}

#[test]
fn logprobs_are_of_the_row_as_it_is() {
    let logits: Vec<f32> = (0..5000).map(|id| ((id * 37) % 4999) as f32 / 300.0).collect();
    let mass: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let told = token_logprobs(&logits, 11, 20);
    assert!((f64::from(told.logprob) - (f64::from(logits[11]) - mass.ln())).abs() < 1e-5);
    let mut plain: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    plain.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let ids: Vec<u32> = told.top.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, plain[..20].iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(token_logprobs(&[1.0, 2.0], 0, 20).top.len(), 2, "no more than there are");
    assert_eq!(token_logprobs(&[1.0, 2.0], 5, 0).logprob, f32::NEG_INFINITY);
    assert_eq!(token_logprobs(&[0.0], 0, 1).top, [(0, 0.0)]);
}

#[test]
fn randomness_depends_on_seed_choice_and_position_and_nothing_else() {
    let mut seen = std::collections::BTreeSet::new();
    let mut sum = 0.0;
    for seed in 0..20 {
        for choice in 0..20 {
            for position in 0..20 {
                let number = uniform(seed, choice, position);
                assert!((0.0..1.0).contains(&number));
                assert_eq!(number, uniform(seed, choice, position));
                seen.insert(number.to_bits());
                sum += number;
            }
        }
    }
    assert_eq!(seen.len(), 8000, "no two alike");
    assert!((sum / 8000.0 - 0.5).abs() < 0.02, "the mean is {}", sum / 8000.0);
}

#[test]
fn checks_every_range() {
    let check = |change: fn(&mut Sampling), expected: Result<(), &str>| {
        let found = sampling(change).check(100).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned));
    };
    check(|_| (), Ok(()));
    check(|s| s.temperature = 2.0, Ok(()));
    check(|s| s.temperature = -0.1, Err("temperature must be a number from 0 to 2, was -0.1"));
    check(|s| s.temperature = f32::NAN, Err("temperature must be a number from 0 to 2, was NaN"));
    let infinite = "temperature must be a number from 0 to 2, was inf";
    check(|s| s.temperature = f32::INFINITY, Err(infinite));
    check(|s| s.top_p = 1.1, Err("top_p must be a number from 0 to 1, was 1.1"));
    check(|s| s.min_p = -1.0, Err("min_p must be a number from 0 to 1, was -1"));
    let positive = "repetition_penalty must be a finite number above 0, was 0";
    check(|s| s.repetition_penalty = 0.0, Err(positive));
    let presence = "presence_penalty must be a number from -2 to 2, was 2.5";
    check(|s| s.presence_penalty = 2.5, Err(presence));
    let frequency = "frequency_penalty must be a number from -2 to 2, was NaN";
    check(|s| s.frequency_penalty = f32::NAN, Err(frequency));
    check(|s| s.top_k = -1, Ok(()));
    check(|s| s.top_k = -2, Err("top_k must be -1 or 0 (off) or at least 1, was -2"));
    check(|s| s.n = 128, Ok(()));
    check(|s| s.n = 129, Err("n must be 1 to 128, was 129"));
    check(|s| s.logit_bias = vec![(99, 100.0)], Ok(()));
    let unknown = "logit_bias names token 100, outside the vocabulary of 100";
    check(|s| s.logit_bias = vec![(100, 0.0)], Err(unknown));
    let far = "logit_bias must be a number from -100 to 100, was -101";
    check(|s| s.logit_bias = vec![(1, -101.0)], Err(far));
    let many = "logit_bias must name at most 1024 tokens, named 1025";
    check(|s| s.logit_bias = vec![(1, 1.0); 1025], Err(many));
}

proptest! {
    /// Few draws of many rows: none may be outside the definition.
    #[test]
    fn nothing_left_out_is_drawn(
        logits in prop::collection::vec(-20.0..20.0_f32, 1..600),
        temperature in 0.1..2.0_f32,
        top_k in prop_oneof![Just(0), 1..400_i32],
        top_p in prop_oneof![Just(1.0_f32), 0.0..1.0_f32],
        min_p in prop_oneof![Just(0.0_f32), 0.0..1.0_f32],
    ) {
        let sampling =
            Sampling { temperature, top_k, top_p, min_p, ..Sampling::default() };
        // Where rounding decides on the last token, one more is right too.
        let generous = Sampling {
            top_p: (top_p + 1e-5).min(1.0),
            min_p: (min_p - 1e-5).max(0.0),
            ..sampling.clone()
        };
        let allowed = by_definition(&logits, &generous);
        for id in draws(&logits, &sampling, 20).keys() {
            prop_assert!(allowed.iter().any(|(other, _)| other == id));
        }
    }

    /// The cut itself, against sorting: the same tokens stay.
    #[test]
    fn keeps_exactly_the_likeliest_mass(
        logits in prop::collection::vec(-8..8_i32, 1..700),
        share in 0.0..1.0_f64,
    ) {
        let all: Vec<select::Candidate> = (0..)
            .zip(&logits)
            .map(|(id, &logit)| {
                // Weights of one half and its powers add up without rounding.
                let weight = 2.0_f32.powi(logit);
                select::Candidate { id, logit: logit as f32, weight }
            })
            .collect();
        let mass = share * select::total(&all);
        let mut plain = all.clone();
        plain.sort_by(select::likelier);
        let mut before = 0.0;
        let enough = plain.iter().position(|candidate| {
            before += f64::from(candidate.weight);
            before >= mass
        });
        plain.truncate(enough.map_or(plain.len(), |last| last + 1));
        let mut kept = all.clone();
        select::keep_mass(&mut kept, mass);
        kept.sort_by(select::likelier);
        prop_assert_eq!(&kept, &plain);
        let mut kept = all;
        select::keep_likeliest(&mut kept, plain.len());
        kept.sort_by(select::likelier);
        prop_assert_eq!(&kept, &plain);
        let row: Vec<f32> = logits.iter().map(|&logit| logit as f32).collect();
        let weigh = row::Weigh { max: 8.0, scale: 1.0, floor: f32::NEG_INFINITY };
        select::likeliest(&row, weigh, plain.len(), &mut kept);
        kept.sort_by(select::likelier);
        let ids = |tokens: &[select::Candidate]| tokens.iter().map(|t| t.id).collect::<Vec<_>>();
        prop_assert_eq!(ids(&kept), ids(&plain));
    }
}

#[test]
fn changes_are_what_is_applied_and_each_token_comes_once() {
    let sampling = sampling(|s| {
        s.logit_bias = vec![(1, 2.0), (7, -1.0), (1, 0.5), (4, 9.0)];
        (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) = (1.5, 0.25, 0.5);
    });
    let mut history = History::new(&[1, 2, 2, 5], &sampling);
    [2, 3, 3, 4].iter().for_each(|token| history.push(*token));
    let (masked, draw) = ([4, 6, 4, 12], Draw { choice: 0, position: 4 });
    let next =
        NextToken { sampling: &sampling, history: &history, masked: &masked, draw, logprobs: None };
    let mut found = Vec::new();
    changes(&next, 8, &mut found);
    found.sort_by_key(|change| change.token);
    let tokens: Vec<u32> = found.iter().map(|change| change.token).collect();
    assert_eq!(tokens, [1, 2, 3, 4, 5, 6, 7]);
    let before = [1.0, -2.0, 3.0, 0.5, 1.0, -1.0, 2.0, 0.25];
    let (mut expected, mut changed) = (before, before);
    apply(&mut expected, &sampling, &history, &masked);
    for change in found {
        let logit = &mut changed[change.token as usize];
        *logit += change.bias;
        if change.is_in_prompt || change.count > 0 {
            *logit *= if *logit > 0.0 { 1.0 / 1.5 } else { 1.5 };
        }
        *logit -= if change.count > 0 { 0.25 + 0.5 * change.count as f32 } else { 0.0 };
        *logit = if change.is_masked { f32::NEG_INFINITY } else { *logit };
    }
    let near = |(a, b): (&f32, &f32)| a == b || (a - b).abs() < 1e-6;
    assert!(expected.iter().zip(&changed).all(near), "{changed:?} {expected:?}");
}
