//! What the members of a replica are doing, taken together: it lives and dies as one.

use crate::backoff::Failures;
use crate::observed::{PendingReason, Phase, WorkerFailure};
use crate::parallelism::Parallelism;
use crate::units::{Bytes, Moment};

/// One member of a replica as a world saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it runs, in words of its world: `pod solar-0-1 on node a`.
    pub place: String,
    /// What it is doing.
    pub phase: Phase,
    /// The rank that it says was lost.
    pub blames: Option<u32>,
    /// When and how its last run before this one ended, if that is known.
    pub ended: Option<(Moment, WorkerFailure)>,
    /// How often it failed in a row.
    pub failures: Failures,
}

impl Member {
    /// Whether it has its weights, and computes or waits for others.
    fn is_there(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Apart { .. })
    }
}

/// What a replica of these members, in their order, is doing. With more than one member, words
/// name the ranks and the place of the member that they are about.
///
/// Whoever drains is as far as member 0: it answers, and the others wait for it. Otherwise the one
/// that is furthest from answering counts, and what it lacks; only when all are ready the replica
/// is. `has_served`: the ranks have met before, so that one which is missing was lost.
pub fn phase(
    parallelism: Parallelism,
    members: &[Member],
    drains: bool,
    has_served: bool,
) -> Phase {
    let group = Group { parallelism, members, has_served };
    match members.first() {
        Some(first) if drains || members.len() == 1 => match &first.phase {
            Phase::Apart { .. } => group.apart(),
            other => other.clone(),
        },
        _ => group.phase(),
    }
}

/// How often a replica of these members failed in a row.
pub fn failures(members: &[Member]) -> Failures {
    members.iter().map(|member| member.failures).max().unwrap_or_default()
}

struct Group<'a> {
    parallelism: Parallelism,
    members: &'a [Member],
    has_served: bool,
}

impl Group<'_> {
    fn phase(&self) -> Phase {
        self.stopped()
            .or_else(|| self.pending())
            .or_else(|| self.silent())
            .or_else(|| self.fetching())
            .unwrap_or_else(|| {
                let has = |wanted: fn(&Phase) -> bool| self.phases().any(wanted);
                if self.phases().all(|phase| *phase == Phase::Ready) {
                    Phase::Ready
                } else if has(|phase| *phase == Phase::Loading) && self.lost().is_none() {
                    Phase::Loading
                } else {
                    self.apart()
                }
            })
    }

    fn phases(&self) -> impl Iterator<Item = &Phase> {
        self.members.iter().map(|member| &member.phase)
    }

    /// A member that does not run: what needs a person comes before what another start mends.
    fn stopped(&self) -> Option<Phase> {
        let stopped = self.members.iter().enumerate().filter_map(|(number, member)| {
            let Phase::Stopped { at, failure } = &member.phase else { return None };
            Some((matches!(failure, WorkerFailure::Ended(_)), number, *at, failure))
        });
        let (_, number, at, failure) =
            stopped.min_by_key(|(ended, number, ..)| (*ended, *number))?;
        Some(Phase::Stopped { at, failure: self.of_member(number, failure) })
    }

    /// A member that has no place, or cannot be started in it.
    fn pending(&self) -> Option<Phase> {
        let mut waiting = self.members.iter().enumerate().filter_map(|(number, member)| {
            let Phase::Pending { why } = &member.phase else { return None };
            Some((number, why))
        });
        let is_stuck = |(_, why): &(usize, &PendingReason)| **why != PendingReason::Placing;
        let Some((number, why)) = waiting.clone().find(is_stuck) else {
            waiting.next()?;
            let begins = self.lost().is_none();
            return Some(if begins {
                Phase::Pending { why: PendingReason::Placing }
            } else {
                self.apart()
            });
        };
        let who = self.who(number);
        let why = match why.clone() {
            PendingReason::Placing => PendingReason::Placing,
            // That is said of the whole group.
            PendingReason::Unschedulable(words) => PendingReason::Unschedulable(words),
            PendingReason::ImageMissing(words) => PendingReason::ImageMissing(who + &words),
            PendingReason::QuotaExceeded(words) => PendingReason::QuotaExceeded(who + &words),
            PendingReason::Refused(words) => PendingReason::Refused(who + &words),
            PendingReason::MountMissing(words) => PendingReason::MountMissing(who + &words),
        };
        Some(Phase::Pending { why })
    }

    /// Silent since the first of those that are fell silent.
    fn silent(&self) -> Option<Phase> {
        let since = self.phases().filter_map(|phase| match phase {
            Phase::Silent { since } => Some(*since),
            _ => None,
        });
        let since = since.min()?;
        // What ended a moment ago is known better than that it has said nothing since.
        Some(if self.lost().is_some() { self.apart() } else { Phase::Silent { since } })
    }

    /// As far as the member that has fetched least.
    fn fetching(&self) -> Option<Phase> {
        let fetches = self.phases().filter_map(|phase| match phase {
            Phase::Fetching { done, total } => Some((*done, *total)),
            _ => None,
        });
        let (done, total): (Bytes, _) = fetches.min_by_key(|(done, _)| *done)?;
        Some(Phase::Fetching { done, total })
    }

    fn apart(&self) -> Phase {
        Phase::Apart { lost: self.lost() }
    }

    /// Who is lost: whom member 0 misses, once all have met; else who ended last of those that are
    /// not there. One that is apart is: it may have ended long ago, and waits for another.
    fn lost(&self) -> Option<String> {
        if let Some(words) = self.missed() {
            return Some(words);
        }
        let ended = self.members.iter().enumerate().filter_map(|(number, member)| {
            let (at, failure) = member.ended.as_ref().filter(|_| !member.is_there())?;
            Some((*at, number, failure))
        });
        let (_, number, failure) = ended.max_by_key(|(at, number, _)| (*at, *number))?;
        Some(self.who(number) + &failure.to_string())
    }

    /// Whom member 0 misses: how that one ended, if that is seen by now, or what member 0 says.
    fn missed(&self) -> Option<String> {
        let first = self.members.first().filter(|_| self.has_served)?;
        let Phase::Apart { lost: Some(words) } = &first.phase else { return None };
        let blamed = first.blames.map(|rank| rank / self.parallelism.devices_per_member());
        let number = blamed.and_then(|member| usize::try_from(member).ok());
        let Some((number, member)) = number.and_then(|it| Some((it, self.members.get(it)?))) else {
            return Some(words.clone());
        };
        let ended = member.ended.as_ref().filter(|_| !member.is_there());
        // Of a member of one rank that was just said.
        let said = match (first.blames, self.parallelism.devices_per_member()) {
            (Some(rank), 1) => format!("rank {rank} is lost: "),
            _ => String::new(),
        };
        let words = || words.strip_prefix(&said).unwrap_or(words).to_owned();
        Some(self.who(number) + &ended.map_or_else(words, |(_, failure)| failure.to_string()))
    }

    fn of_member(&self, number: usize, failure: &WorkerFailure) -> WorkerFailure {
        let who = self.who(number);
        match failure.clone() {
            WorkerFailure::Weights(fault, words) => WorkerFailure::Weights(fault, who + &words),
            WorkerFailure::Config(words) => WorkerFailure::Config(who + &words),
            WorkerFailure::NoUsableGpu(words) => WorkerFailure::NoUsableGpu(who + &words),
            WorkerFailure::OutOfMemory(words) => WorkerFailure::OutOfMemory(who + &words),
            WorkerFailure::NodeLost(words) => WorkerFailure::NodeLost(who + &words),
            WorkerFailure::Rank(words) | WorkerFailure::Ended(words) => {
                WorkerFailure::Rank(who + &words)
            }
        }
    }

    fn who(&self, number: usize) -> String {
        let ranks = self.parallelism.ranks_of(u32::try_from(number).unwrap_or(u32::MAX));
        format!("{ranks} ({}): ", self.members[number].place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Phase = Phase::Ready;

    fn member(number: usize, phase: Phase) -> Member {
        let place = format!("pod solar-0-{number} on node a");
        Member { place, phase, blames: None, ended: None, failures: Failures(0) }
    }

    fn group(phases: &[Phase]) -> Vec<Member> {
        phases.iter().cloned().enumerate().map(|(number, phase)| member(number, phase)).collect()
    }

    fn ended(words: &str) -> WorkerFailure {
        WorkerFailure::Ended(words.to_owned())
    }

    fn stopped(words: &str) -> Phase {
        Phase::Stopped { at: Moment(5), failure: ended(words) }
    }

    fn apart(lost: Option<&str>) -> Phase {
        Phase::Apart { lost: lost.map(str::to_owned) }
    }

    fn three() -> Parallelism {
        Parallelism::new(3, 1, 1).unwrap()
    }

    #[track_caller]
    fn check(fact: &str, members: &[Member], has_served: bool, expected: &Phase) {
        assert_eq!(phase(three(), members, false, has_served), *expected, "{fact}");
    }

    #[test]
    fn the_furthest_from_answering_counts() {
        let placing = || Phase::Pending { why: PendingReason::Placing };
        let fetch = |done| Phase::Fetching { done: Bytes(done), total: Some(Bytes(9)) };
        check("all answer", &group(&[READY, READY, READY]), true, &READY);
        check("one loads", &group(&[apart(None), Phase::Loading, READY]), false, &Phase::Loading);
        check("one fetches", &group(&[Phase::Loading, fetch(3), fetch(2)]), false, &fetch(2));
        check(
            "one has no place",
            &group(&[Phase::Loading, placing(), fetch(2)]),
            false,
            &placing(),
        );
        let silent = |since| Phase::Silent { since: Moment(since) };
        check("one is silent", &group(&[READY, silent(4), silent(3)]), true, &silent(3));
        let words = "the ranks have not met yet";
        check("none was lost", &group(&[apart(Some(words)), READY, READY]), false, &apart(None));
    }

    #[test]
    fn who_is_lost_is_named() {
        let gone = "rank 1 (pod solar-0-1 on node a): exit code 137";
        let failure = WorkerFailure::Rank(gone.to_owned());
        let down = Phase::Stopped { at: Moment(5), failure };
        check("a rank ended", &group(&[READY, stopped("exit code 137"), READY]), true, &down);
        let mut back = group(&[apart(Some("lost rank 1")), Phase::Loading, READY]);
        back[0].blames = Some(1);
        back[1].ended = Some((Moment(5), ended("exit code 137")));
        check("it is on its way back", &back, true, &apart(Some(gone)));
        back[1].phase = Phase::Silent { since: Moment(6) };
        check("though it has said nothing yet", &back, true, &apart(Some(gone)));
        back[2].phase = apart(None);
        back[2].ended = Some((Moment(9), ended("earlier")));
        check("another ended before", &back, true, &apart(Some(gone)));
        back[1].phase = READY;
        let missed = "rank 1 (pod solar-0-1 on node a): lost rank 1";
        check("nobody has seen it end", &back, true, &apart(Some(missed)));
        back[0].phase = READY;
        back[1].phase = Phase::Pending { why: PendingReason::Placing };
        back[1].ended = None;
        let placing = Phase::Pending { why: PendingReason::Placing };
        check("nobody has said yet who is lost", &back, true, &placing);
        let said = "rank 2 is lost: its link broke";
        let mut all = group(&[apart(Some(said)), apart(None), apart(None)]);
        check("a link broke", &all, true, &apart(Some(said)));
        all[0].blames = Some(2);
        let named = "rank 2 (pod solar-0-2 on node a): its link broke";
        check("to one that member 0 knows", &all, true, &apart(Some(named)));
        all[0].blames = Some(9);
        check("or does not", &all, true, &apart(Some(said)));
    }

    #[test]
    fn what_needs_a_person_comes_first() {
        let config = WorkerFailure::Config("9 heads".to_owned());
        let broken = Phase::Stopped { at: Moment(7), failure: config };
        let named = WorkerFailure::Config("rank 2 (pod solar-0-2 on node a): 9 heads".to_owned());
        let expected = Phase::Stopped { at: Moment(7), failure: named };
        check("a reason", &group(&[stopped("exit code 1"), READY, broken]), false, &expected);
        let image =
            |words: &str| Phase::Pending { why: PendingReason::ImageMissing(words.to_owned()) };
        let named = image("rank 1 (pod solar-0-1 on node a): no image");
        check("an image", &group(&[READY, image("no image"), READY]), false, &named);
    }

    #[test]
    fn drains_are_as_far_as_member_0() {
        let members = group(&[READY, stopped("exit code 0"), READY]);
        assert_eq!(phase(three(), &members, true, true), READY, "others may be gone");
        let members = group(&[stopped("exit code 0"), READY, READY]);
        assert_eq!(phase(three(), &members, true, true), stopped("exit code 0"), "it is done");
    }

    #[test]
    fn a_member_alone_speaks_for_itself() {
        let alone = |phase| super::phase(Parallelism::default(), &group(&[phase]), false, false);
        assert_eq!(alone(stopped("exit code 1")), stopped("exit code 1"));
        assert_eq!(alone(apart(Some("waiting"))), apart(None), "its ranks have not met yet");
    }
}
