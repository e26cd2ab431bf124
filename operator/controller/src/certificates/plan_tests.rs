//! Single decisions as rows, and whole lives of authorities under virtual time.

use proptest::prelude::*;

use super::*;

const DAY: u64 = 24 * 3600;
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn day() -> Lifetime {
    Lifetime::new(DAY).unwrap()
}

fn authority(id: &str, days_left: u64) -> Authority {
    Authority { id: AuthorityId(id.to_owned()), expires: NOW.plus(days_left * DAY) }
}

fn leaf(signer: &str, hours_left: u64, trusts: &[&str]) -> Option<Leaf> {
    let trusts = trusts.iter().map(|&id| AuthorityId(id.to_owned())).collect();
    let signer = AuthorityId(signer.to_owned());
    Some(Leaf {
        signer,
        expires: NOW.plus(hours_left * 3600),
        trusts,
        names_fit: true,
        is_owned: true,
    })
}

fn steady() -> Authorities {
    Authorities { signer: authority("a", 30), phase: Phase::Steady }
}

fn introducing(trusted_since: Option<UnixSeconds>) -> Authorities {
    let next = authority("b", 30);
    Authorities { signer: authority("a", 9), phase: Phase::Introducing { next, trusted_since } }
}

fn leaving(moved_since: Option<UnixSeconds>) -> Authorities {
    let old = authority("a", 9);
    Authorities { signer: authority("b", 30), phase: Phase::Leaving { old, moved_since } }
}

fn hours_ago(hours: u64) -> UnixSeconds {
    UnixSeconds(NOW.0 - hours * 3600)
}

fn write(what: Write) -> Step<&'static str> {
    Step::Write(BTreeMap::from([("gateway", what)]))
}

#[track_caller]
fn check(fact: &str, authorities: &Authorities, leaf: Option<Leaf>, expected: &Step<&str>) {
    let holders = BTreeMap::from([("gateway", leaf)]);
    assert_eq!(&plan(Some(authorities), &holders, NOW, day()), expected, "{fact}");
}

#[test]
fn certificates_are_renewed_in_the_last_third_of_their_life() {
    let (issue, trust) = (write(Write::Issue), write(Write::Trust));
    let wait = |hours: u64| Step::Wait(NOW.plus(hours * 3600));
    check("fresh", &steady(), leaf("a", 24, &["a"]), &wait(16));
    check("in its second third", &steady(), leaf("a", 9, &["a"]), &wait(1));
    check("in its last", &steady(), leaf("a", 8, &["a"]), &issue);
    check("expired", &steady(), leaf("a", 0, &["a"]), &issue);
    check("none", &steady(), None, &issue);
    check("of somebody else", &steady(), leaf("z", 24, &["a"]), &issue);
    check("of a longer lifetime", &steady(), leaf("a", 48, &["a"]), &issue);
    check("a stranger is trusted", &steady(), leaf("a", 24, &["a", "z"]), &trust);
    let lost = leaf("a", 24, &["a"]).map(|leaf| Leaf { is_owned: false, ..leaf });
    check("owned by nobody", &steady(), lost, &trust);
    let misnamed = leaf("a", 24, &["a"]).map(|leaf| Leaf { names_fit: false, ..leaf });
    check("for another name", &steady(), misnamed, &issue);
}

#[test]
fn an_authority_is_replaced_step_by_step() {
    let none = BTreeMap::<&str, _>::new();
    assert_eq!(plan(None, &none, NOW, day()), Step::Found);
    let signed_by = |days| Authorities { signer: authority("a", days), phase: Phase::Steady };
    check("in its last third", &signed_by(10), leaf("a", 24, &["a"]), &Step::Introduce);
    check("of a longer lifetime", &signed_by(60), leaf("a", 24, &["a"]), &Step::Introduce);
    check("too late", &signed_by(0), leaf("a", 24, &["a"]), &Step::Found);
    let trust = write(Write::Trust);
    check("one does not know the next", &introducing(None), leaf("a", 24, &["a"]), &trust);
    let both = leaf("a", 24, &["a", "b"]);
    check("all know it", &introducing(None), both.clone(), &Step::MarkTrusted);
    let wait = Step::Wait(NOW.plus(3600));
    check("it settles", &introducing(Some(hours_ago(3))), both.clone(), &wait);
    check("it has settled", &introducing(Some(hours_ago(4))), both.clone(), &Step::Switch);
    let late = Authorities { signer: authority("a", 0), ..introducing(None) };
    check("it is high time", &late, both.clone(), &Step::Switch);
    check("one is of the old", &leaving(None), both.clone(), &write(Write::Issue));
    let moved = leaf("b", 24, &["a", "b"]);
    check("all are of the new", &leaving(None), moved.clone(), &Step::MarkMoved);
    check("it settles again", &leaving(Some(hours_ago(3))), moved.clone(), &wait);
    check("it has settled again", &leaving(Some(hours_ago(4))), moved, &Step::Retire);
    check("somebody came back", &leaving(Some(hours_ago(4))), both, &write(Write::Issue));
}

#[test]
fn a_lifetime_has_bounds() {
    assert_eq!(Lifetime::new(5), None);
    assert_eq!(Lifetime::new(u64::MAX), None);
    assert_eq!(Lifetime::new(6).map(Lifetime::settle), Some(1));
}

/// Everything that was ever written, under a clock of its own.
struct World {
    lifetime: Lifetime,
    now: UnixSeconds,
    authorities: Option<Authorities>,
    made: u32,
    retired: u32,
    /// What each holder was given, and when.
    given: BTreeMap<u8, Vec<(UnixSeconds, Leaf)>>,
}

impl World {
    fn new(lifetime: Lifetime, holders: u8) -> Self {
        let given = (0..holders).map(|holder| (holder, Vec::new())).collect();
        Self { lifetime, now: NOW, authorities: None, made: 0, retired: 0, given }
    }

    fn make(&mut self) -> Authority {
        self.made += 1;
        let id = AuthorityId(self.made.to_string());
        Authority { id, expires: self.now.plus(self.lifetime.authority()) }
    }

    fn holders(&self) -> BTreeMap<u8, Option<Leaf>> {
        let newest = |given: &Vec<(UnixSeconds, Leaf)>| given.last().map(|(_, leaf)| leaf.clone());
        self.given.iter().map(|(&holder, given)| (holder, newest(given))).collect()
    }

    fn plan(&self) -> Step<u8> {
        plan(self.authorities.as_ref(), &self.holders(), self.now, self.lifetime)
    }

    /// Takes steps until there is nothing left to do. At most `writes_max` holders are written to:
    /// then the operator is killed.
    fn operate(&mut self, mut writes_max: usize) {
        for _ in 0..20 {
            let step = self.plan();
            match step {
                Step::Wait(until) => {
                    assert!(until > self.now, "a wait that is over");
                    return;
                }
                Step::Found => {
                    assert!(self.authorities.is_none(), "trust is broken by a new beginning");
                    let signer = self.make();
                    self.authorities = Some(Authorities { signer, phase: Phase::Steady });
                }
                Step::Write(lacking) => {
                    for (holder, what) in lacking {
                        if writes_max == 0 {
                            return;
                        }
                        writes_max -= 1;
                        self.write(holder, what);
                    }
                }
                step => self.turn(&step),
            }
        }
        panic!("the steps do not come to an end");
    }

    fn turn(&mut self, step: &Step<u8>) {
        let next = self.make();
        let now = self.now;
        let authorities = self.authorities.as_mut().expect("there are some");
        let phase = std::mem::replace(&mut authorities.phase, Phase::Steady);
        authorities.phase = match (step, phase) {
            (Step::Introduce, Phase::Steady) => Phase::Introducing { next, trusted_since: None },
            (Step::MarkTrusted, Phase::Introducing { next, .. }) => {
                Phase::Introducing { next, trusted_since: Some(now) }
            }
            (Step::Switch, Phase::Introducing { next, .. }) => {
                let old = std::mem::replace(&mut authorities.signer, next);
                Phase::Leaving { old, moved_since: None }
            }
            (Step::MarkMoved, Phase::Leaving { old, .. }) => {
                Phase::Leaving { old, moved_since: Some(now) }
            }
            (Step::Retire, Phase::Leaving { .. }) => {
                self.retired += 1;
                Phase::Steady
            }
            (step, phase) => panic!("{step:?} in {phase:?}"),
        };
    }

    fn write(&mut self, holder: u8, what: Write) {
        let authorities = self.authorities.as_ref().expect("there are some");
        let given = self.given.get_mut(&holder).expect("a holder");
        let issued = Leaf {
            signer: authorities.signer.id.clone(),
            expires: self.now.plus(self.lifetime.leaf()),
            trusts: authorities.trusted(),
            names_fit: true,
            is_owned: true,
        };
        let kept = given.last().map(|(_, leaf)| leaf.clone());
        let leaf = match (what, kept) {
            (Write::Trust, Some(kept)) => Leaf { trusts: issued.trusts, ..kept },
            _ => issued,
        };
        given.push((self.now, leaf));
    }

    /// What a holder may be using now: the newest, and whatever was replaced so recently that the
    /// new may not have arrived.
    fn in_use(&self, holder: u8) -> Vec<&Leaf> {
        let mut used = Vec::new();
        let mut replaced: Option<UnixSeconds> = None;
        for (given, leaf) in self.given[&holder].iter().rev() {
            if replaced.is_some_and(|at| at.plus(self.lifetime.settle()) <= self.now) {
                break;
            }
            used.push(leaf);
            replaced = Some(*given);
        }
        used
    }

    /// Whoever meets whom, with whichever files: both believe each other.
    fn everybody_is_trusted(&self) -> Result<(), TestCaseError> {
        for &one in self.given.keys() {
            for &other in self.given.keys() {
                for shown in self.in_use(one) {
                    prop_assert!(shown.expires > self.now, "{one} has expired");
                    for believing in self.in_use(other) {
                        prop_assert!(
                            believing.trusts.contains(&shown.signer),
                            "{other} trusts {:?}, {one} is of {:?}",
                            believing.trusts,
                            shown.signer,
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Over several lives of authorities, with an operator that looks late, is killed half-way
    /// and meets new holders, every pair trusts each other at every second.
    #[test]
    fn everybody_is_trusted_at_every_moment(
        leaf_seconds in 12u64..60,
        holders in 1u8..4,
        looks in prop::collection::vec((1u64..=10, 0usize..6), 64),
        joins in prop::collection::vec(0u64..2000, 2),
    ) {
        let lifetime = Lifetime::new(leaf_seconds).unwrap();
        let mut world = World::new(lifetime, holders);
        world.operate(usize::MAX);
        let end = NOW.plus(lifetime.authority() * 3);
        let mut looks = looks.iter().cycle();
        let mut next_look = NOW;
        // Two looks, of which the first may be cut short, lie within what may be late.
        let gap_max = (lifetime.settle() / 2).max(1);
        let mut was_cut = false;
        while world.now < end {
            if joins.contains(&(world.now.0 - NOW.0)) {
                let holder = u8::try_from(world.given.len()).unwrap();
                world.given.insert(holder, Vec::new());
                world.operate(usize::MAX);
            }
            if world.now >= next_look {
                let (gap, writes_max) = looks.next().unwrap();
                let writes_max = if was_cut { usize::MAX } else { *writes_max };
                was_cut = !was_cut;
                world.operate(writes_max);
                next_look = world.now.plus((*gap).min(gap_max));
            }
            world.everybody_is_trusted()?;
            world.now = world.now.plus(1);
        }
        prop_assert!(world.retired >= 3, "{} authorities were replaced", world.retired);
    }
}
