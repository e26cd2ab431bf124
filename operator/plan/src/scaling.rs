//! How many replicas a load asks for.
//!
//! More come at once: a queue that is too long is already felt. Fewer come one at a time, each
//! after the load has been low for a whole window, so that a load which comes and goes faster
//! than that changes nothing. "Low" is measured with room to spare ([`DOWN`]), "too much" without
//! ([`UP`]): a load between the two keeps what there is.
//!
//! ```text
//! wish, state, load, now ──► decide ──► Verdict { state, change, next_check }
//! ```

use serde::{Deserialize, Serialize};

use crate::condition::{Condition, ConditionKind, Reason, Truth};
use crate::replicas::NextCheck;
use crate::units::{Millis, Moment, ReplicaCount, TokenCount};

/// How long the load must have been low before there is one replica less.
pub const DOWN_AFTER: Millis = Millis::from_seconds(60);

/// Within which bounds, and at which load, naru chooses the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingWish {
    /// Never fewer than these; zero: none while nobody asks.
    pub min: ReplicaCount,
    /// Never more than these; at least one and at least `min`.
    pub max: ReplicaCount,
    /// Tokens of prompts that may wait for each replica before there is another.
    pub queued_tokens_per_replica: TokenCount,
    /// With a `min` of zero: how long nobody must have asked before the last replica goes.
    pub idle_before_zero: Millis,
}

/// The load of one model deployment at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Of each replica that is ready and was heard of lately.
    pub replicas: Vec<ReplicaLoad>,
    /// Replicas that are ready and have said nothing for too long: their load is not known.
    pub unheard: u32,
    /// Requests that wait at gateways because no replica takes them.
    pub waiting_at_gateways: u32,
    /// Sequences that one replica decodes together at most.
    pub max_sequences: u32,
    /// When a request was last known to be in progress anywhere; `None`: not in living memory.
    pub last_asked: Option<Moment>,
}

/// What one replica said of its load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaLoad {
    /// Prompt tokens of the sequences that wait.
    pub queued_prompt_tokens: TokenCount,
    /// Sequences being computed.
    pub running: u32,
    /// Sequences waiting.
    pub waiting: u32,
    /// KV blocks that running sequences hold.
    pub kv_blocks_used: u64,
    /// KV blocks in all.
    pub kv_blocks_total: u64,
}

/// What must be remembered between two decisions.
///
/// A leader that lost it begins again with [`ScalingState::resume`]: windows start anew, the
/// number stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingState {
    /// The replicas that were wished last.
    pub wished: ReplicaCount,
    /// Since when the load has asked for fewer; `None`: it does not.
    pub low_since: Option<Moment>,
    /// Since when nobody has asked for anything; `None`: somebody does.
    pub idle_since: Option<Moment>,
}

impl ScalingState {
    /// Nothing is remembered but the number: of the last decision, else of the replicas there are.
    pub fn resume(wished: ReplicaCount) -> Self {
        Self { wished, low_since: None, idle_since: None }
    }
}

/// Why another number of replicas is wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ScalingReason {
    /// The bounds are others than before.
    BoundsChanged,
    /// Somebody asks and there is no replica.
    Woken,
    /// More tokens of prompts wait than may for each replica.
    QueueTooLong,
    /// More requests than the replicas compute together.
    SequencesTaken,
    /// The KV caches are nearly full.
    KvCacheFull,
    /// For a while fewer would have been enough.
    LoadLow,
    /// Nobody has asked for a while.
    Idle,
}

/// One change of the number of replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalingChange {
    /// Wished before.
    pub from: ReplicaCount,
    /// Wished now.
    pub to: ReplicaCount,
    /// Why, for programs.
    pub reason: ScalingReason,
    /// Why, for people.
    pub message: String,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to remember; `state.wished` replicas are wished.
    pub state: ScalingState,
    /// What changed, if anything did.
    pub change: Option<ScalingChange>,
    /// Whether the load asks for more than the wish allows.
    pub is_limited: bool,
    /// When to decide again though the load stays.
    pub next_check: NextCheck,
}

/// How full replicas may be, in percent.
#[derive(Clone, Copy, Debug)]
struct Fill {
    queue: u32,
    sequences: u32,
    kv: u32,
}

/// Beyond this there is one more.
const UP: Fill = Fill { queue: 100, sequences: 100, kv: 90 };
/// With one less they must stay below this.
const DOWN: Fill = Fill { queue: 50, sequences: 70, kv: 60 };

/// Decides how many replicas are wished. Pure: the same input gives the same verdict.
///
/// The number stays between `wish.min` and `wish.max`; more load never gives a smaller one.
pub fn decide(wish: &ScalingWish, state: &ScalingState, load: &Load, now: Moment) -> Verdict {
    let sum = Sum::of(wish, load);
    let before = state.wished;
    let wished = before.clamp(wish.min, wish.max);
    let (need, need_reason) = sum.need(UP);
    let is_limited = need > wish.max;
    let mut next = state.seen(&sum, load, wished, wish, now);
    let up = need.clamp(wish.min, wish.max);
    let (to, reason) = if up > wished {
        (up, if wished.0 == 0 { ScalingReason::Woken } else { need_reason })
    } else if next.has_idled(wish, now) {
        (ReplicaCount(0), ScalingReason::Idle)
    } else if next.low_since.is_some_and(|since| now.since(since) >= DOWN_AFTER) {
        (ReplicaCount(wished.0 - 1), ScalingReason::LoadLow)
    } else {
        (wished, ScalingReason::BoundsChanged)
    };
    if to != before {
        next.low_since = None;
    }
    next.wished = to;
    if to != before {
        // Whether the load is low for the new number as well is known at once.
        next = next.seen(&sum, load, to, wish, now);
    }
    let message = || sum.message(wish, reason);
    let change =
        (to != before).then(|| ScalingChange { from: before, to, reason, message: message() });
    Verdict { next_check: next.next_check(wish, now), state: next, change, is_limited }
}

impl ScalingState {
    /// The state once `load` was seen, with `wished` replicas.
    fn seen(
        mut self,
        sum: &Sum,
        load: &Load,
        wished: ReplicaCount,
        wish: &ScalingWish,
        now: Moment,
    ) -> Self {
        // What is not known is taken for as much as there is.
        let is_known = load.unheard == 0;
        let floor = wish.min.max(ReplicaCount(1));
        let is_low = is_known && wished > floor && sum.need(DOWN).0 < wished;
        self.low_since = is_low.then(|| self.low_since.unwrap_or(now));
        let is_idle = is_known && !sum.is_asked();
        self.idle_since = is_idle.then(|| {
            let since = self.idle_since.unwrap_or(now);
            load.last_asked.map_or(since, |asked| since.max(asked))
        });
        self.wished = wished;
        self
    }

    /// Whether the last replica may go.
    fn has_idled(&self, wish: &ScalingWish, now: Moment) -> bool {
        let long = |since: Moment| now.since(since) >= wish.idle_before_zero;
        wish.min.0 == 0 && self.wished.0 > 0 && self.idle_since.is_some_and(long)
    }

    fn next_check(&self, wish: &ScalingWish, now: Moment) -> NextCheck {
        let in_time = |moment: Moment| NextCheck::In(moment.since(now));
        let low = self.low_since.map(|since| in_time(since.after(DOWN_AFTER)));
        let can_sleep = wish.min.0 == 0 && self.wished.0 > 0;
        let idle = self.idle_since.filter(|_| can_sleep);
        let idle = idle.map(|since| in_time(since.after(wish.idle_before_zero)));
        low.into_iter().chain(idle).min().unwrap_or(NextCheck::OnChange)
    }
}

/// So many replicas, and what asks for them.
type Need = (ReplicaCount, ScalingReason);

/// The load of all replicas together, and what one can bear.
struct Sum {
    queued_tokens: u64,
    queued_tokens_per_replica: u64,
    requests: u64,
    sequences_per_replica: u64,
    kv_blocks_used: u64,
    kv_blocks_per_replica: u64,
}

impl Sum {
    fn of(wish: &ScalingWish, load: &Load) -> Self {
        let sum = |amount: fn(&ReplicaLoad) -> u64| {
            load.replicas.iter().map(amount).fold(0_u64, u64::saturating_add)
        };
        let kv_blocks_total = sum(|replica| replica.kv_blocks_total);
        let in_replicas = sum(|replica| u64::from(replica.running) + u64::from(replica.waiting));
        Self {
            queued_tokens: sum(|replica| replica.queued_prompt_tokens.0),
            queued_tokens_per_replica: wish.queued_tokens_per_replica.0,
            requests: in_replicas.saturating_add(load.waiting_at_gateways.into()),
            sequences_per_replica: load.max_sequences.into(),
            kv_blocks_used: sum(|replica| replica.kv_blocks_used),
            kv_blocks_per_replica: kv_blocks_total / (load.replicas.len().max(1) as u64),
        }
    }

    fn is_asked(&self) -> bool {
        self.requests > 0 || self.queued_tokens > 0
    }

    /// The fewest replicas that bear this load filled no further than `fill`, and which part of it
    /// asks for that many; the first one when several do. Whoever asks needs at least one.
    fn need(&self, fill: Fill) -> Need {
        if !self.is_asked() {
            return (ReplicaCount(0), ScalingReason::Idle);
        }
        let needs = [
            (
                fewest(self.queued_tokens, self.queued_tokens_per_replica, fill.queue),
                ScalingReason::QueueTooLong,
            ),
            (
                fewest(self.requests, self.sequences_per_replica, fill.sequences),
                ScalingReason::SequencesTaken,
            ),
            (
                fewest(self.kv_blocks_used, self.kv_blocks_per_replica, fill.kv),
                ScalingReason::KvCacheFull,
            ),
        ];
        let larger = |a: Need, b: Need| if b.0 > a.0 { b } else { a };
        needs.into_iter().fold((ReplicaCount(1), ScalingReason::Woken), larger)
    }

    fn message(&self, wish: &ScalingWish, reason: ScalingReason) -> String {
        let Self { queued_tokens, requests, kv_blocks_used, kv_blocks_per_replica, .. } = self;
        match reason {
            ScalingReason::BoundsChanged => {
                format!("replicas are kept between {} and {}", wish.min.0, wish.max.0)
            }
            ScalingReason::Woken => format!("{requests} requests wait and there is no replica"),
            ScalingReason::QueueTooLong => format!(
                "{queued_tokens} prompt tokens wait; {} may for each replica",
                self.queued_tokens_per_replica
            ),
            ScalingReason::SequencesTaken => format!(
                "{requests} requests; each replica computes {} together",
                self.sequences_per_replica
            ),
            ScalingReason::KvCacheFull => format!(
                "{kv_blocks_used} KV blocks are in use; each replica has {kv_blocks_per_replica}"
            ),
            ScalingReason::LoadLow => {
                format!("one less would have been enough for {} s", DOWN_AFTER.0 / 1000)
            }
            ScalingReason::Idle => {
                format!("nobody asked for {} s", wish.idle_before_zero.0 / 1000)
            }
        }
    }
}

/// The fewest replicas that hold `amount` when each holds `percent` of `capacity`.
fn fewest(amount: u64, capacity: u64, percent: u32) -> ReplicaCount {
    let each = u128::from(capacity) * u128::from(percent);
    if each == 0 {
        return ReplicaCount(0); // a capacity that is not known asks for nothing
    }
    let replicas = (u128::from(amount) * 100).div_ceil(each);
    ReplicaCount(u32::try_from(replicas).unwrap_or(u32::MAX))
}

/// What to say about the scaling of a model deployment that `verdict` was given on.
pub fn condition(wish: &ScalingWish, verdict: &Verdict, now: Moment) -> Condition {
    let (min, max) = (wish.min.0, wish.max.0);
    let (reason, message) = if verdict.is_limited {
        (Reason::LimitedByMaximum, format!("the load asks for more than {max} replicas"))
    } else {
        let words = format!("naru keeps between {min} and {max} replicas; replicas is ignored");
        (Reason::ScaledByLoad, words)
    };
    let kind = ConditionKind::ScalingActive;
    Condition { kind, truth: Truth::True, reason, message, since: now }
}

#[cfg(test)]
#[path = "scaling_tests.rs"]
mod tests;
