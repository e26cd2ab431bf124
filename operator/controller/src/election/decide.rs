//! What a candidate does about a lease. Pure.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Somebody else leads, or may.
    Wait,
    /// Become the leader; the lease has then changed hands so often.
    Take {
        /// Changes of hands, this one included, not counting the first holder.
        transitions: i32,
    },
    /// Stay the leader.
    Renew {
        /// Changes of hands so far.
        transitions: i32,
    },
}

/// One candidate, and the present as it sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// The name of this process, and of no other.
    pub(super) identity: &'a str,
    /// Whether it leads. One that stopped and finds that it still has the lease begins anew, so
    /// that what it published before is older than what comes.
    pub(super) leads: bool,
    /// How the names of earlier processes in the same place begin, where there is only ever one
    /// at a time: they are dead.
    pub(super) place: Option<&'a str>,
    /// How long the lease has been seen not to change.
    pub(super) unchanged: Duration,
    /// A lease that did not change for this long is anybody's.
    pub(super) lease: Duration,
    /// The present by this machine's clock, in Unix seconds.
    pub(super) now: i64,
    /// The most changes that this candidate ever saw: a lease may be deleted, or set back.
    pub(super) most: i32,
}

/// 2020-01-01 in Unix seconds.
const YEAR_2020: i64 = 1_577_836_800;

/// A number of changes to begin with where there is nothing to count on from: the seconds since
/// 2020, which no lease that changed hands less than once a second has reached.
fn beginning(now: i64) -> i32 {
    // The API server takes no negative number; there are 31 bits, enough until 2088.
    i32::try_from(now.saturating_sub(YEAR_2020).max(0)).unwrap_or(i32::MAX)
}

/// Decides about a lease; `None`: there is none. The longer of its holder's own duration and the
/// candidate's counts.
pub(super) fn decide(spec: Option<&LeaseSpec>, view: View<'_>) -> Step {
    let View { identity, leads, place, unchanged, lease, now, most } = view;
    let take = |before: i32| Step::Take { transitions: before.max(most).saturating_add(1) };
    let Some(spec) = spec else { return take(beginning(now)) };
    let transitions = spec.lease_transitions.unwrap_or_else(|| beginning(now));
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity && leads {
        return Step::Renew { transitions: transitions.max(most) };
    }
    let is_dead = holder == identity || place.is_some_and(|place| holder.starts_with(place));
    let promised = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    let is_over = unchanged >= Duration::from_secs(promised).max(lease);
    if holder.is_empty() || is_dead || is_over {
        return take(transitions);
    }
    Step::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn held_by(holder: &str, seconds: i32, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    #[track_caller]
    fn check(fact: &str, spec: Option<LeaseSpec>, unchanged: u64, expected: Step) {
        let unchanged = Duration::from_secs(unchanged);
        let (identity, place, now) = ("me_2", Some("me_"), YEAR_2020 + 100);
        let view = View { identity, leads: true, place, unchanged, lease: LEASE, now, most: 0 };
        assert_eq!(decide(spec.as_ref(), view), expected, "{fact}");
    }

    #[test]
    fn who_stopped_begins_anew() {
        let (identity, place, unchanged) = ("me_2", None, Duration::ZERO);
        let (leads, lease, now, most) = (false, LEASE, 0, 0);
        let view = View { identity, leads, place, unchanged, lease, now, most };
        let own = held_by("me_2", 15, 3);
        assert_eq!(decide(Some(&own), view), Step::Take { transitions: 4 });
    }

    #[test]
    fn steps() {
        use Step::{Renew, Take, Wait};
        check("no lease is anybody's", None, 0, Take { transitions: 101 });
        check("one's own is renewed", Some(held_by("me_2", 15, 3)), 0, Renew { transitions: 3 });
        check("however late", Some(held_by("me_2", 15, 3)), 99, Renew { transitions: 3 });
        check("another's is left alone", Some(held_by("you", 15, 3)), 14, Wait);
        check("until it runs out", Some(held_by("you", 15, 3)), 15, Take { transitions: 4 });
        check("as its holder counts", Some(held_by("you", 60, 3)), 59, Wait);
        check("or as we do", Some(held_by("you", 1, 3)), 14, Wait);
        check("or a dead process has it", Some(held_by("me_1", 15, 3)), 0, Take { transitions: 4 });
        check(
            "one that was given back is free",
            Some(held_by("", 1, 3)),
            0,
            Take { transitions: 4 },
        );
        let empty = Some(LeaseSpec::default());
        check("so is one that never was held", empty, 0, Take { transitions: 101 });
    }

    /// What is written by a candidate that has seen `most` changes, `seconds` after 2020.
    #[track_caller]
    fn counts(fact: &str, spec: Option<LeaseSpec>, most: i32, seconds: i64, expected: Step) {
        let (identity, place, unchanged) = ("me_2", None, Duration::from_secs(99));
        let (leads, lease, now) = (true, LEASE, YEAR_2020 + seconds);
        let view = View { identity, leads, place, unchanged, lease, now, most };
        assert_eq!(decide(spec.as_ref(), view), expected, "{fact}");
    }

    #[test]
    fn what_came_before_is_older() {
        use Step::{Renew, Take};
        let take = |transitions| Take { transitions };
        let (mine, other) = (|n| Some(held_by("me_2", 15, n)), |n| Some(held_by("you", 15, n)));
        counts("a first lease", None, 0, 500, take(501));
        counts("one that was deleted", None, 501, 600, take(601));
        counts("and the clock is slow", None, 501, 400, take(502));
        counts("one that was set back", other(7), 501, 600, take(502));
        counts("while this one leads", mine(7), 501, 600, Renew { transitions: 501 });
        counts("one that others took meanwhile", other(503), 501, 600, take(504));
        counts("a clock before 2020", None, 0, -9, take(1));
        counts("a clock after 2088", None, 0, 1 << 40, take(i32::MAX));
        counts("there is no more", other(i32::MAX), 0, 600, take(i32::MAX));
    }
}
