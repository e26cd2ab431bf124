use proptest::prelude::*;

use super::*;

const NOW: Moment = Moment(100_000_000);
const SEQUENCES: u32 = 8;
const BLOCKS: u64 = 100;

/// 1000 prompt tokens may wait for each replica; after ten minutes without a request none is left.
fn between(min: u32, max: u32) -> ScalingWish {
    ScalingWish {
        min: ReplicaCount(min),
        max: ReplicaCount(max),
        queued_tokens_per_replica: TokenCount(1000),
        idle_before_zero: Millis::from_seconds(600),
    }
}

fn quiet() -> Load {
    Load { max_sequences: SEQUENCES, ..Load::default() }
}

fn replica(queued: u64, running: u32, waiting: u32, kv_blocks_used: u64) -> ReplicaLoad {
    let queued_prompt_tokens = TokenCount(queued);
    let kv_blocks_total = BLOCKS;
    ReplicaLoad { queued_prompt_tokens, running, waiting, kv_blocks_used, kv_blocks_total }
}

fn load(replicas: impl Into<Vec<ReplicaLoad>>) -> Load {
    Load { replicas: replicas.into(), ..quiet() }
}

/// So many prompt tokens wait at one replica.
fn queue(tokens: u64) -> Load {
    load([replica(tokens, 1, 1, 0)])
}

fn running(sequences: u32) -> Load {
    load([replica(0, sequences, 0, 0)])
}

fn ago(seconds: u64) -> Option<Moment> {
    Some(Moment(NOW.0 - seconds * 1000))
}

fn have(wished: u32) -> ScalingState {
    ScalingState::resume(ReplicaCount(wished))
}

fn low(wished: u32, seconds: u64) -> ScalingState {
    ScalingState { low_since: ago(seconds), ..have(wished) }
}

fn idle(wished: u32, seconds: u64) -> ScalingState {
    ScalingState { idle_since: ago(seconds), ..have(wished) }
}

/// `expected` is the number wished, and why when it changes.
#[track_caller]
fn check(fact: &str, wish: ScalingWish, state: ScalingState, load: &Load, expected: &str) {
    let verdict = decide(&wish, &state, load, NOW);
    let reason = verdict.change.map_or(String::new(), |change| format!(" {:?}", change.reason));
    assert_eq!(format!("{}{reason}", verdict.state.wished.0), expected, "{fact}");
}

#[test]
fn going_up() {
    let wish = between(1, 8);
    check("a queue that is allowed changes nothing", wish, have(1), &queue(1000), "1");
    check("a longer one asks for another", wish, have(1), &queue(1001), "2 QueueTooLong");
    check("a burst for all it needs at once", wish, have(1), &queue(5000), "5 QueueTooLong");
    check("but for no more than may be", wish, have(1), &queue(50_000), "8 QueueTooLong");
    let spread = load([replica(600, 1, 1, 0), replica(600, 1, 1, 0)]);
    check("queues are added up", wish, have(1), &spread, "2 QueueTooLong");
    check("two replicas bear them", wish, have(2), &spread, "2");
    check("as many sequences as there are seats", wish, have(1), &running(8), "1");
    let one_waits = load([replica(10, 8, 1, 0)]);
    check("one that waits for a seat", wish, have(1), &one_waits, "2 SequencesTaken");
    let at_gateways = Load { waiting_at_gateways: 9, ..quiet() };
    check("also outside", wish, have(1), &at_gateways, "2 SequencesTaken");
    check("a cache that is used", wish, have(1), &load([replica(0, 4, 0, 90)]), "1");
    check("a full one", wish, have(1), &load([replica(0, 4, 0, 91)]), "2 KvCacheFull");
    let one_full = load([replica(0, 4, 0, 100), replica(0, 0, 0, 0)]);
    check("one full one beside an empty one", wish, have(2), &one_full, "2");
    let all = load([replica(2500, 8, 20, 100)]);
    check("the largest need counts", wish, have(1), &all, "4 SequencesTaken");
}

#[test]
fn going_down() {
    let wish = between(1, 8);
    check("a load that is low now is waited for", wish, have(3), &running(1), "3");
    check("for a minute", wish, low(3, 59), &running(1), "3");
    check("then one goes, not two", wish, low(3, 60), &running(1), "2 LoadLow");
    check("never below the minimum", between(2, 8), low(2, 9999), &quiet(), "2");
    check("nor the last one by lowness", between(0, 8), low(1, 9999), &running(1), "1");
    check("two are too few for this queue", wish, low(3, 60), &queue(1001), "3");
    check("but enough for this one", wish, low(3, 60), &queue(1000), "2 LoadLow");
    check("two have too few seats to spare", wish, low(3, 60), &running(12), "3");
    check("enough", wish, low(3, 60), &running(11), "2 LoadLow");
    let silent = Load { unheard: 1, ..quiet() };
    check("a replica that says nothing may be busy", wish, low(3, 999), &silent, "3");
}

#[test]
fn to_zero_and_back() {
    let wish = between(0, 8);
    check("nobody has asked for a while", wish, idle(1, 599), &quiet(), "1");
    check("long enough", wish, idle(1, 600), &quiet(), "0 Idle");
    check("from wherever it was", wish, idle(3, 600), &quiet(), "0 Idle");
    check("but not with a minimum", between(1, 8), idle(1, 9999), &quiet(), "1");
    check("zero stays zero", wish, idle(0, 9999), &quiet(), "0");
    let glimpsed = Load { last_asked: ago(10), ..quiet() };
    check("a request that nobody saw at work counts", wish, idle(1, 600), &glimpsed, "1");
    let silent = Load { unheard: 1, ..quiet() };
    check("one that says nothing may be busy", wish, idle(1, 9999), &silent, "1");
    let one = Load { waiting_at_gateways: 1, ..quiet() };
    check("one request wakes one", wish, idle(0, 9999), &one, "1 Woken");
    let many = Load { waiting_at_gateways: 20, ..quiet() };
    check("many wake as many as they need", wish, have(0), &many, "3 Woken");
    let unknown = Load { waiting_at_gateways: 1, ..Load::default() };
    check("whatever else is unknown", wish, have(0), &unknown, "1 Woken");
}

#[test]
fn bounds() {
    check("a raised minimum", between(3, 8), have(1), &quiet(), "3 BoundsChanged");
    check("a lowered maximum", between(1, 2), have(5), &running(1), "2 BoundsChanged");
    check("a minimum of zero takes nobody away", between(0, 2), have(1), &running(1), "1");
    let limited = |max| decide(&between(1, max), &have(1), &queue(5000), NOW);
    let reason = |max| condition(&between(1, max), &limited(max), NOW).reason;
    assert_eq!(reason(4), Reason::LimitedByMaximum, "and it is said that more would be good");
    assert_eq!(reason(5), Reason::ScaledByLoad);
}

#[test]
fn next_checks() {
    let next = |wish, state, load| decide(&wish, &state, &load, NOW).next_check;
    let seconds = |seconds| NextCheck::In(Millis::from_seconds(seconds));
    assert_eq!(
        next(between(1, 8), have(1), running(1)),
        NextCheck::OnChange,
        "nothing to wait for"
    );
    assert_eq!(next(between(1, 8), low(3, 20), running(1)), seconds(40), "the window");
    assert_eq!(next(between(1, 8), low(3, 60), running(1)), seconds(60), "the next one");
    assert_eq!(next(between(0, 8), idle(1, 590), quiet()), seconds(10), "the sleep");
    assert_eq!(next(between(0, 8), idle(0, 590), quiet()), NextCheck::OnChange, "asleep");
}

#[test]
fn messages() {
    let message = |wish, state, load: Load| {
        decide(&wish, &state, &load, NOW).change.expect("a change").message
    };
    let burst = message(between(1, 8), have(1), queue(5000));
    assert_eq!(burst, "5000 prompt tokens wait; 1000 may for each replica");
    let woken = message(between(0, 8), have(0), Load { waiting_at_gateways: 2, ..quiet() });
    assert_eq!(woken, "2 requests wait and there is no replica");
    assert_eq!(message(between(0, 8), idle(1, 600), quiet()), "nobody asked for 600 s");
}

prop_compose! {
    fn loads()(
        replicas in prop::collection::vec(
            (0_u64..20_000, 0_u32..20, 0_u32..50, 0_u64..=BLOCKS),
            0..6,
        ),
        waiting_at_gateways in 0_u32..60,
        unheard in 0_u32..2,
        asked in prop::option::of(0_u64..900),
    ) -> Load {
        let of = |(queued, running, waiting, kv)| replica(queued, running, waiting, kv);
        Load {
            replicas: replicas.into_iter().map(of).collect(),
            unheard,
            waiting_at_gateways,
            max_sequences: SEQUENCES,
            last_asked: asked.and_then(ago),
        }
    }
}

prop_compose! {
    fn states()(
        wished in 0_u32..12,
        low in prop::option::of(0_u64..900),
        idle in prop::option::of(0_u64..900),
    ) -> ScalingState {
        ScalingState {
            wished: ReplicaCount(wished),
            low_since: low.and_then(ago),
            idle_since: idle.and_then(ago),
        }
    }
}

prop_compose! {
    fn wishes()(min in 0_u32..5, more in 0_u32..8) -> ScalingWish {
        between(min, (min + more).max(1))
    }
}

/// The same load, the same wish, decided on every ten seconds: the numbers wished.
fn run(wish: &ScalingWish, state: ScalingState, load: impl Fn(u64) -> Load) -> Vec<u32> {
    let mut state = state;
    let mut numbers = Vec::new();
    for turn in 0..400 {
        let now = NOW.after(Millis::from_seconds(10 * turn));
        state = decide(wish, &state, &load(turn), now).state;
        numbers.push(state.wished.0);
    }
    numbers
}

/// How often the numbers went another way than before: up after down, or down after up.
fn turns(numbers: &[u32]) -> usize {
    let moves: Vec<_> =
        numbers.windows(2).map(|pair| pair[1].cmp(&pair[0])).filter(|way| way.is_ne()).collect();
    moves.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

proptest! {
    #[test]
    fn the_number_stays_in_bounds(wish in wishes(), state in states(), load in loads()) {
        let wished = decide(&wish, &state, &load, NOW).state.wished;
        prop_assert!(wish.min <= wished && wished <= wish.max);
    }

    #[test]
    fn more_load_never_gives_fewer(
        wish in wishes(), state in states(), load in loads(), place in 0_usize..6,
        more in (0_u64..5000, 0_u32..9, 0_u32..9, 0_u64..50, 0_u32..9),
    ) {
        let mut larger = load.clone();
        if let Some(replica) = larger.replicas.get_mut(place) {
            replica.queued_prompt_tokens.0 += more.0;
            replica.running += more.1;
            replica.waiting += more.2;
            replica.kv_blocks_used += more.3;
        }
        larger.waiting_at_gateways += more.4;
        let wished = |load| decide(&wish, &state, load, NOW).state.wished;
        prop_assert!(wished(&larger) >= wished(&load));
    }

    #[test]
    fn a_steady_load_comes_to_rest(wish in wishes(), state in states(), load in loads()) {
        let numbers = run(&wish, state, |_| Load { last_asked: None, ..load.clone() });
        prop_assert!(turns(&numbers) <= 1, "{numbers:?}");
        let rest = &numbers[numbers.len() - 100..];
        prop_assert!(rest.iter().all(|number| *number == rest[0]), "{numbers:?}");
    }

    #[test]
    fn a_load_that_comes_and_goes_within_the_window_changes_nothing(
        wish in wishes(), busy in 1_u64..6, pause in 1_u64..6, tokens in 1_u64..20_000,
    ) {
        let wave = |turn: u64| if turn % (busy + pause) < busy { queue(tokens) } else { quiet() };
        let numbers = run(&wish, have(wish.min.0), wave);
        prop_assert!(turns(&numbers) == 0, "{numbers:?}");
    }

    #[test]
    fn a_change_is_told_exactly_when_there_is_one(
        wish in wishes(), state in states(), load in loads(),
    ) {
        let Verdict { state: next, change, .. } = decide(&wish, &state, &load, NOW);
        prop_assert_eq!(change.is_some(), next.wished != state.wished);
        if let Some(change) = change {
            prop_assert_eq!((change.from, change.to), (state.wished, next.wished));
        }
    }

    #[test]
    fn a_new_leader_takes_nobody_away_at_once(wish in wishes(), load in loads(), n in 0_u32..12) {
        let resumed = decide(&wish, &have(n), &load, NOW).state.wished;
        prop_assert!(resumed.0 >= n.clamp(wish.min.0, wish.max.0));
    }
}
