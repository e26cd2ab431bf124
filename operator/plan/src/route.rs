//! Which endpoint answers a request: ordered filters, then ordered scores, each with its reason.

use serde::{Deserialize, Serialize};

/// One endpoint as the gateway knows it at the moment of routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The endpoint's stable name; the last word in a tie.
    pub name: &'a str,
    /// Whether it answers requests.
    pub ready: bool,
    /// Whether it is finishing what it has and takes nothing new.
    pub draining: bool,
    /// Requests this gateway has sent it that are not finished.
    pub in_flight: usize,
    /// Whether this very request has already failed there.
    pub failed_before: bool,
}

/// Why an endpoint was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rejection {
    /// It is not ready.
    NotReady,
    /// It takes nothing new.
    Draining,
    /// This request has failed there.
    FailedBefore,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The place of the chosen endpoint among the candidates; `None`: none will do.
    pub chosen: Option<usize>,
    /// The first reason against each endpoint that was left out, in the order of the candidates.
    pub rejected: Vec<(usize, Rejection)>,
}

type Filter = fn(&Candidate<'_>) -> Result<(), Rejection>;
type Score = fn(&Candidate<'_>) -> usize;

/// Every one must agree; the first that does not gives the reason.
const FILTERS: &[Filter] = &[is_ready, takes_requests, is_untried];
/// The smaller, the better; a later one decides only where the earlier are equal.
const SCORES: &[Score] = &[requests_in_flight];

fn is_ready(candidate: &Candidate<'_>) -> Result<(), Rejection> {
    if candidate.ready { Ok(()) } else { Err(Rejection::NotReady) }
}

fn takes_requests(candidate: &Candidate<'_>) -> Result<(), Rejection> {
    if candidate.draining { Err(Rejection::Draining) } else { Ok(()) }
}

fn is_untried(candidate: &Candidate<'_>) -> Result<(), Rejection> {
    if candidate.failed_before { Err(Rejection::FailedBefore) } else { Ok(()) }
}

fn requests_in_flight(candidate: &Candidate<'_>) -> usize {
    candidate.in_flight
}

/// Picks the best of `candidates`; equal scores go to the smallest name.
pub fn pick(candidates: &[Candidate<'_>]) -> Pick {
    let mut rejected = Vec::new();
    let mut best: Option<(usize, &Candidate<'_>)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        if let Some(reason) = FILTERS.iter().find_map(|filter| filter(candidate).err()) {
            rejected.push((index, reason));
        } else if best.is_none_or(|(_, best)| precedes(candidate, best)) {
            best = Some((index, candidate));
        }
    }
    Pick { chosen: best.map(|(index, _)| index), rejected }
}

fn precedes(a: &Candidate<'_>, b: &Candidate<'_>) -> bool {
    let by_score = SCORES.iter().map(|score| score(a).cmp(&score(b)));
    by_score.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then).then(a.name.cmp(b.name))
        == std::cmp::Ordering::Less
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn idle(name: &str) -> Candidate<'_> {
        Candidate { name, ready: true, draining: false, in_flight: 0, failed_before: false }
    }

    #[track_caller]
    fn check(fact: &str, candidates: &[Candidate<'_>], chosen: Option<&str>) {
        let pick = pick(candidates);
        assert_eq!(pick.chosen.map(|index| candidates[index].name), chosen, "{fact}");
    }

    #[test]
    fn picks() {
        let busy = |name, in_flight| Candidate { in_flight, ..idle(name) };
        check("nobody is nobody", &[], None);
        check("the only one is the one", &[idle("a")], Some("a"));
        check("the less busy one", &[busy("a", 2), busy("b", 1)], Some("b"));
        check("equals go by name, wherever they stand", &[idle("b"), idle("a")], Some("a"));
        let starting = Candidate { ready: false, ..idle("a") };
        check("one that is not ready is left out", &[starting, busy("b", 9)], Some("b"));
        let draining = Candidate { draining: true, ..idle("a") };
        check("so is one that drains", &[draining, busy("b", 9)], Some("b"));
        let failed = Candidate { failed_before: true, ..idle("a") };
        check("and one where this request failed", &[failed, busy("b", 9)], Some("b"));
    }

    #[test]
    fn reasons() {
        let candidates = [
            Candidate { ready: false, draining: true, ..idle("a") },
            Candidate { draining: true, failed_before: true, ..idle("b") },
            Candidate { failed_before: true, ..idle("c") },
        ];
        let reasons = [Rejection::NotReady, Rejection::Draining, Rejection::FailedBefore];
        let rejected = reasons.into_iter().enumerate().collect();
        assert_eq!(pick(&candidates), Pick { chosen: None, rejected });
    }

    proptest! {
        #[test]
        fn the_order_of_candidates_decides_nothing(
            states in prop::collection::vec((any::<bool>(), any::<bool>(), 0_usize..4), 0..8),
            turn in 0_usize..8,
        ) {
            let names: Vec<_> = (0..states.len()).map(|n| n.to_string()).collect();
            let mut candidates: Vec<_> = names
                .iter()
                .zip(&states)
                .map(|(name, &(ready, draining, in_flight))| {
                    Candidate { name, ready, draining, in_flight, failed_before: false }
                })
                .collect();
            let chosen = |all: &[Candidate<'_>]| pick(all).chosen.map(|i| all[i].name.to_owned());
            let first = chosen(&candidates);
            let turn = turn.min(candidates.len());
            candidates.rotate_left(turn);
            prop_assert_eq!(first, chosen(&candidates));
        }
    }
}
