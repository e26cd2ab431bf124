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
    /// A number of changes that no lease has had yet, should there be none to count on from.
    pub(super) beginning: i32,
}

/// Decides about a lease; `None`: there is none. The longer of its holder's own duration and the
/// candidate's counts.
pub(super) fn decide(spec: Option<&LeaseSpec>, view: View<'_>) -> Step {
    let View { identity, leads, place, unchanged, lease, beginning } = view;
    let Some(spec) = spec else { return Step::Take { transitions: beginning } };
    let transitions = spec.lease_transitions.unwrap_or(beginning);
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity && leads {
        return Step::Renew { transitions };
    }
    let is_dead = holder == identity || place.is_some_and(|place| holder.starts_with(place));
    let promised = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    let is_over = unchanged >= Duration::from_secs(promised).max(lease);
    if holder.is_empty() || is_dead || is_over {
        return Step::Take { transitions: transitions.saturating_add(1) };
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
        let (identity, place, beginning) = ("me_2", Some("me_"), 100);
        let view = View { identity, leads: true, place, unchanged, lease: LEASE, beginning };
        assert_eq!(decide(spec.as_ref(), view), expected, "{fact}");
    }

    #[test]
    fn who_stopped_begins_anew() {
        let (identity, place, unchanged) = ("me_2", None, Duration::ZERO);
        let view = View { identity, leads: false, place, unchanged, lease: LEASE, beginning: 0 };
        let own = held_by("me_2", 15, 3);
        assert_eq!(decide(Some(&own), view), Step::Take { transitions: 4 });
    }

    #[test]
    fn steps() {
        use Step::{Renew, Take, Wait};
        check("no lease is anybody's", None, 0, Take { transitions: 100 });
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
}
