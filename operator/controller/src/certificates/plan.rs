//! What to do next with certificates: the decision, which knows no clock, no key and no cluster.
//!
//! An authority is replaced in steps, each taken when the one before has reached everybody:
//! ```text
//! Steady ──Introduce──▶ Introducing ──MarkTrusted, settle, Switch──▶ Leaving
//!   ▲                   everybody comes to trust both                   │ everybody's certificate
//!   └───────────────────── MarkMoved, settle, Retire ───────────────────┘ comes to be of the new
//! ```
//! So at every moment everybody trusts the authority of everybody else's certificate, however late
//! files reach their holders, up to [`Lifetime::settle`].

use std::collections::{BTreeMap, BTreeSet};

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// So many seconds later.
    #[must_use]
    pub(super) const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

/// How long certificates are valid; everything else follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    leaf_seconds: u64,
}

impl Lifetime {
    /// The shortest: X.509 counts in seconds, and all parts of it must be whole ones.
    pub const SECONDS_MIN: u64 = 6;
    /// The longest: an authority outlives a certificate thirty times.
    pub const SECONDS_MAX: u64 = 366 * 24 * 3600;

    /// Certificates of so many seconds. `None`: fewer or more than there can be.
    #[must_use]
    pub const fn new(leaf_seconds: u64) -> Option<Self> {
        if leaf_seconds < Self::SECONDS_MIN || leaf_seconds > Self::SECONDS_MAX {
            return None;
        }
        Some(Self { leaf_seconds })
    }

    /// Of a certificate.
    #[must_use]
    pub const fn leaf(self) -> u64 {
        self.leaf_seconds
    }

    /// Of an authority.
    #[must_use]
    pub const fn authority(self) -> u64 {
        self.leaf_seconds * 30
    }

    /// Within this time what is written has reached its holder, and is in use there.
    #[must_use]
    pub const fn settle(self) -> u64 {
        self.leaf_seconds / 6
    }
}

/// Tells one authority from another: its certificate's serial number in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AuthorityId(pub String);

/// An authority, as much as is decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// Which.
    pub(super) id: AuthorityId,
    /// When it is no longer valid.
    pub(super) expires: UnixSeconds,
}

/// How far the replacement of the authority has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is one.
    Steady,
    /// The next one is being made known.
    Introducing {
        /// It will sign.
        next: Authority,
        /// When everybody was seen to trust it.
        trusted_since: Option<UnixSeconds>,
    },
    /// The one before still has to be trusted.
    Leaving {
        /// It signed.
        old: Authority,
        /// When nobody was seen to have a certificate of it any more.
        moved_since: Option<UnixSeconds>,
    },
}

/// The authorities there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authorities {
    /// It signs.
    pub(super) signer: Authority,
    /// And what else is trusted.
    pub(super) phase: Phase,
}

impl Authorities {
    /// Everybody must trust these.
    #[must_use]
    pub(super) fn trusted(&self) -> BTreeSet<AuthorityId> {
        let other = match &self.phase {
            Phase::Steady => None,
            Phase::Introducing { next, .. } => Some(next),
            Phase::Leaving { old, .. } => Some(old),
        };
        [Some(&self.signer), other].into_iter().flatten().map(|it| it.id.clone()).collect()
    }
}

/// A certificate that its holder has, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The authority that signed it.
    pub(super) signer: AuthorityId,
    /// When it is no longer valid.
    pub(super) expires: UnixSeconds,
    /// What lies beside it, for its holder to trust.
    pub(super) trusts: BTreeSet<AuthorityId>,
    /// It is for the names that it should be for.
    pub(super) names_fit: bool,
    /// It goes with those it was made for.
    pub(super) is_owned: bool,
}

/// What a holder lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// A certificate, and what to trust.
    Issue,
    /// What to trust, or who owns it; its certificate is good.
    Trust,
}

/// The next thing to do; afterwards is looked, and decided, again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step<H> {
    /// Make an authority that signs at once: there is none to go on from.
    Found,
    /// Make the next authority.
    Introduce,
    /// Note that everybody trusts the next authority, by now.
    MarkTrusted,
    /// The next authority signs from now on.
    Switch,
    /// Note that everybody's certificate is of the signer, by now.
    MarkMoved,
    /// Forget the authority before.
    Retire,
    /// Give holders what they lack.
    Write(BTreeMap<H, Write>),
    /// Nothing until then, if nothing else changes.
    Wait(UnixSeconds),
}

/// Decides on the next step. `holders` are all that should have a certificate, with what they have.
#[must_use]
pub(super) fn plan<H: Clone + Ord>(
    authorities: Option<&Authorities>,
    holders: &BTreeMap<H, Option<Leaf>>,
    now: UnixSeconds,
    lifetime: Lifetime,
) -> Step<H> {
    let Some(authorities) = authorities else { return Step::Found };
    if let Some(step) = replace(authorities, holders, now, lifetime) {
        return step;
    }
    let lacking: BTreeMap<H, Write> = holders
        .iter()
        .filter_map(|(holder, leaf)| {
            let lacks = lack(leaf.as_ref(), authorities, now, lifetime)?;
            Some((holder.clone(), lacks))
        })
        .collect();
    if !lacking.is_empty() {
        return Step::Write(lacking);
    }
    match &authorities.phase {
        Phase::Introducing { trusted_since: None, .. } => Step::MarkTrusted,
        Phase::Leaving { moved_since: None, .. } => Step::MarkMoved,
        _ => Step::Wait(next_look(authorities, holders, lifetime)),
    }
}

/// The step that the time alone asks for.
fn replace<H>(
    authorities: &Authorities,
    holders: &BTreeMap<H, Option<Leaf>>,
    now: UnixSeconds,
    lifetime: Lifetime,
) -> Option<Step<H>> {
    let signer = &authorities.signer;
    match &authorities.phase {
        Phase::Steady if signer.expires <= now => Some(Step::Found),
        Phase::Steady => {
            let is_old = signer.expires <= renewal(now, lifetime.authority());
            let is_from_longer = signer.expires > most(now, lifetime.authority());
            (is_old || is_from_longer).then_some(Step::Introduce)
        }
        Phase::Introducing { next, .. } if next.expires <= now => Some(Step::Found),
        Phase::Introducing { trusted_since, .. } => {
            let is_trusted = trusted_since.is_some_and(|it| it.plus(lifetime.settle()) <= now);
            // Late is better than never.
            (is_trusted || signer.expires <= now).then_some(Step::Switch)
        }
        Phase::Leaving { .. } if signer.expires <= now => Some(Step::Found),
        Phase::Leaving { old, moved_since } => {
            let of_old = |leaf: &Option<Leaf>| leaf.as_ref().is_some_and(|it| it.signer == old.id);
            let is_left = moved_since.is_some_and(|it| it.plus(lifetime.settle()) <= now)
                && !holders.values().any(of_old);
            (is_left || old.expires <= now).then_some(Step::Retire)
        }
    }
}

/// What expires by then is renewed now: the last third of its life is for that.
const fn renewal(now: UnixSeconds, lifetime_seconds: u64) -> UnixSeconds {
    now.plus(lifetime_seconds / 3)
}

/// What expires later was made for a longer lifetime than is asked for now; clocks may differ a
/// little.
const fn most(now: UnixSeconds, lifetime_seconds: u64) -> UnixSeconds {
    now.plus(lifetime_seconds + lifetime_seconds / 6)
}

fn lack(
    leaf: Option<&Leaf>,
    authorities: &Authorities,
    now: UnixSeconds,
    lifetime: Lifetime,
) -> Option<Write> {
    let Some(leaf) = leaf else { return Some(Write::Issue) };
    let is_old = leaf.expires <= renewal(now, lifetime.leaf());
    let is_from_longer = leaf.expires > most(now, lifetime.leaf());
    let is_foreign = leaf.signer != authorities.signer.id;
    if is_old || is_from_longer || is_foreign || !leaf.names_fit {
        return Some(Write::Issue);
    }
    let is_as_wished = leaf.is_owned && leaf.trusts == authorities.trusted();
    (!is_as_wished).then_some(Write::Trust)
}

/// The earliest moment at which the time alone asks for something.
fn next_look<H>(
    authorities: &Authorities,
    holders: &BTreeMap<H, Option<Leaf>>,
    lifetime: Lifetime,
) -> UnixSeconds {
    let leaves = holders.values().flatten().map(|leaf| before(leaf.expires, lifetime.leaf() / 3));
    let phase = match &authorities.phase {
        Phase::Steady => before(authorities.signer.expires, lifetime.authority() / 3),
        Phase::Introducing { trusted_since: since, .. }
        | Phase::Leaving { moved_since: since, .. } => {
            since.unwrap_or(UnixSeconds(0)).plus(lifetime.settle())
        }
    };
    leaves.fold(phase, UnixSeconds::min)
}

const fn before(time: UnixSeconds, seconds: u64) -> UnixSeconds {
    UnixSeconds(time.0.saturating_sub(seconds))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
