//! Who has room: by priority, then age, at each moment that counts.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{self, BudgetReport};
use super::say::{self, Verdict};
use super::supply::{Instant, Supply};
use super::tree::{BudgetFault, NodeIndex, Tree};
use super::{Consumer, Fleet};
use crate::names::DeploymentName;
use crate::replicas::NextCheck;
use crate::units::{Moment, ReplicaCount, Watts};

/// What the budgets allow one model deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many replicas may stay, of those that are wished.
    pub replicas: ReplicaCount,
    /// How many more may exist while successors take over.
    pub surge: ReplicaCount,
    /// How many may be made now.
    pub creations: ReplicaCount,
    /// What it is charged for the replicas there are.
    pub charged: Watts,
    /// What to say of it.
    pub verdict: Verdict,
}

/// What the budgets allow everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetPlan {
    /// By deployment.
    pub allowances: BTreeMap<DeploymentName, Allowance>,
    /// Each budget as it is now, in the order in which they were given.
    pub budgets: Vec<BudgetReport>,
    /// When a schedule asks for another look.
    pub next_check: NextCheck,
}

/// Shares the budgets out. Pure, and remembers nothing: what is charged is what there is.
///
/// Once every deployment has no more replicas than it is allowed, the charges and the overhead of
/// each budget are within its watts, now and at each step of its schedule. What a deployment is
/// allowed does not depend on those that rank behind it.
pub fn plan(fleet: &Fleet, now: Moment) -> FleetPlan {
    let tree = Tree::of(&fleet.budgets);
    let leads: BTreeSet<_> = fleet.consumers.iter().map(Consumer::lead).collect();
    let supply = Supply::of(&tree, &leads, now);
    let ranked = rank(&fleet.consumers, &tree);
    let round = Round { fleet, tree: &tree, supply: &supply, ranked: &ranked, now };
    let allotments: Vec<_> =
        (0..supply.instants.len()).map(|instant| round.allot(instant)).collect();
    let mut held: Vec<_> = (0..supply.instants.len())
        .map(|instant| round.held(instant, &allotments[instant]))
        .collect();
    let budgets = report::budgets(&tree, &supply, &held[0], now);
    let mut allowances = BTreeMap::new();
    for (place, Ranked { consumer, .. }) in ranked.iter().enumerate() {
        let allowance = round.allow(place, &allotments, &mut held);
        allowances.insert(consumer.name.clone(), allowance);
    }
    FleetPlan { allowances, budgets, next_check: supply.next_check(&leads) }
}

/// A deployment with the budgets that it is charged to.
pub(super) struct Ranked<'a> {
    pub(super) consumer: &'a Consumer,
    pub(super) path: Vec<NodeIndex>,
    fault: Option<BudgetFault>,
}

impl Ranked<'_> {
    fn watts(&self, replicas: u32) -> u64 {
        self.consumer.power.watts_per_replica.0.saturating_mul(replicas.into())
    }

    /// How many replicas `free` watts of each budget are enough for.
    fn fits(&self, free: &[u64]) -> u32 {
        let each = self.consumer.power.watts_per_replica.0;
        let fits = self.path.iter().filter_map(|node| free[node.0].checked_div(each)).min();
        fits.map_or(u32::MAX, |fits| u32::try_from(fits).unwrap_or(u32::MAX))
    }
}

/// Who has room first: of higher priority, then older.
fn rank<'a>(consumers: &'a [Consumer], tree: &Tree<'_>) -> Vec<Ranked<'a>> {
    let mut order: Vec<_> = consumers.iter().collect();
    order.sort_by_key(|consumer| {
        (std::cmp::Reverse(consumer.power.priority), consumer.created, &consumer.name)
    });
    let ranked = order.into_iter().map(|consumer| {
        let budget = &consumer.power.budget;
        match tree.find(budget).map(|index| tree.node(index)) {
            Some(node) => Ranked { consumer, path: node.path.clone(), fault: node.fault.clone() },
            None => {
                let fault = Some(BudgetFault::Missing(budget.clone()));
                Ranked { consumer, path: Vec::new(), fault }
            }
        }
    });
    ranked.collect()
}

/// What is given to each, by rank, at one moment.
pub(super) struct Allotment {
    grants: Vec<u32>,
    surges: Vec<u32>,
    shortfalls: Vec<Option<Shortfall>>,
}

/// Why one more replica does not fit at one moment.
#[derive(Clone)]
pub(super) struct Shortfall {
    /// What the moment's budgets lack for it.
    pub(super) lacking: Vec<(NodeIndex, Watts)>,
    /// Those that were given of the same watts before.
    pub(super) holders: Vec<DeploymentName>,
}

/// One sharing out.
pub(super) struct Round<'a> {
    fleet: &'a Fleet,
    pub(super) tree: &'a Tree<'a>,
    pub(super) supply: &'a Supply,
    pub(super) ranked: &'a [Ranked<'a>],
    now: Moment,
}

impl Round<'_> {
    fn instant(&self, instant: usize) -> &Instant {
        &self.supply.instants[instant]
    }

    /// Whether this deployment prepares for that moment already.
    fn prepares_for(&self, consumer: &Consumer, instant: usize) -> bool {
        self.instant(instant).at <= self.now.after(consumer.lead())
    }

    /// Grants by rank, then room for successors out of what is left.
    fn allot(&self, instant: usize) -> Allotment {
        let mut free: Vec<_> = self.instant(instant).all().iter().map(|watts| watts.0).collect();
        self.take_what_stays_anyway(instant, &mut free);
        let mut allotment =
            Allotment { grants: Vec::new(), surges: Vec::new(), shortfalls: Vec::new() };
        for ranked in self.ranked {
            let consumer = ranked.consumer;
            if ranked.fault.is_some() {
                allotment.grants.push(consumer.staying.min(consumer.wished.0));
                allotment.shortfalls.push(None);
                continue;
            }
            let grant = ranked.fits(&free).min(consumer.wished.0);
            take(&mut free, &ranked.path, ranked.watts(grant));
            let shortfall = (grant < consumer.wished.0)
                .then(|| self.shortfall(ranked, &free, &allotment.grants));
            allotment.grants.push(grant);
            allotment.shortfalls.push(shortfall);
        }
        for ranked in self.ranked {
            let most = if ranked.fault.is_some() { 0 } else { ranked.consumer.surge.0 };
            let surge = most.min(ranked.fits(&free));
            take(&mut free, &ranked.path, ranked.watts(surge));
            allotment.surges.push(surge);
        }
        allotment
    }

    /// What nobody can make go in time for a step, and what nobody is let have more of.
    fn take_what_stays_anyway(&self, instant: usize, free: &mut [u64]) {
        let at = self.instant(instant).at;
        let is_step = instant > 0;
        for ranked in self.ranked {
            let consumer = ranked.consumer;
            let is_late = is_step && consumer.is_late_for(at, self.now);
            let staying = match &ranked.fault {
                Some(_) => consumer.staying,
                // About to drain, and not gone by then.
                None if is_late => consumer.staying.saturating_sub(consumer.wished.0),
                None => 0,
            };
            let draining = if is_step { consumer.draining_at(at, self.now) } else { 0 };
            take(free, &ranked.path, ranked.watts(staying.saturating_add(draining)));
        }
        if is_step {
            self.leftovers(at, |path, watts| take(free, path, watts));
        }
    }

    /// What is charged for leftovers at a moment.
    fn leftovers(&self, at: Moment, mut charge: impl FnMut(&[NodeIndex], u64)) {
        for leftover in &self.fleet.leftovers {
            let is_there = at == self.now || leftover.gone_by.is_none_or(|gone| at < gone);
            let node = self.tree.find(&leftover.budget).filter(|_| is_there);
            if let Some(node) = node.map(|index| self.tree.node(index)) {
                charge(&node.path, leftover.watts.0);
            }
        }
    }

    fn shortfall(&self, ranked: &Ranked<'_>, free: &[u64], grants: &[u32]) -> Shortfall {
        let each = ranked.consumer.power.watts_per_replica.0;
        let lacks = |node: &NodeIndex| (*node, Watts(each.saturating_sub(free[node.0])));
        let lacking: Vec<_> =
            ranked.path.iter().map(lacks).filter(|(_, watts)| watts.0 > 0).collect();
        let shares = |other: &Ranked<'_>| lacking.iter().any(|(node, _)| other.path.contains(node));
        let before = self.ranked.iter().zip(grants).filter(|(_, grant)| **grant > 0);
        let holders = before.filter(|(other, _)| shares(other));
        let holders = holders.map(|(other, _)| other.consumer.name.clone()).collect();
        Shortfall { lacking, holders }
    }

    /// What is drawn from each budget at a moment, at most: what is there and cannot be gone by
    /// then, and what those who can still prepare for it were granted.
    fn held(&self, instant: usize, allotment: &Allotment) -> Vec<u64> {
        let at = self.instant(instant).at;
        let mut held = vec![0_u64; self.tree.nodes.len()];
        for (place, ranked) in self.ranked.iter().enumerate() {
            let consumer = ranked.consumer;
            let draining = if instant == 0 {
                u32::try_from(consumer.drains.len()).unwrap_or(u32::MAX)
            } else {
                consumer.draining_at(at, self.now)
            };
            let staying = if ranked.fault.is_some() || consumer.is_late_for(at, self.now) {
                consumer.staying
            } else {
                allotment.grants[place].saturating_add(allotment.surges[place])
            };
            add(&mut held, &ranked.path, ranked.watts(staying.saturating_add(draining)));
        }
        self.leftovers(at, |path, watts| add(&mut held, path, watts));
        held
    }

    /// What one deployment is allowed. What it may make now is added to what is held.
    fn allow(&self, place: usize, allotments: &[Allotment], held: &mut [Vec<u64>]) -> Allowance {
        let ranked = &self.ranked[place];
        let consumer = ranked.consumer;
        let instants = (0..allotments.len()).filter(|i| self.prepares_for(consumer, *i));
        let instants: Vec<_> = instants.collect();
        let grant = |instant: &usize| allotments[*instant].grants[place];
        let tightest = instants.iter().copied().min_by_key(grant).unwrap_or(0);
        let replicas = grant(&tightest);
        let surge = instants.iter().map(|instant| allotments[*instant].surges[place]).min();
        let surge = surge.unwrap_or(0);
        let most = replicas.saturating_add(surge);
        let wanted = most.saturating_sub(consumer.staying);
        let mut creations = 0;
        let may_create = ranked.fault.is_none();
        while may_create && creations < wanted && self.make_room(ranked, &instants, held) {
            creations += 1;
        }
        let present = consumer.drains.len() + consumer.staying as usize;
        let present = u32::try_from(present).unwrap_or(u32::MAX);
        let verdict = match (&ranked.fault, &allotments[tightest].shortfalls[place]) {
            (Some(fault), _) => say::fault(fault),
            (None, Some(shortfall)) => {
                say::too_few(self, ranked, replicas, &self.instant(tightest).at, shortfall)
            }
            (None, None) if creations < wanted => say::waits_for_drains(ranked),
            (None, None) if consumer.surge.0 > 0 && surge == 0 => say::cannot_exchange(ranked),
            (None, None) => say::fits(ranked),
        };
        Allowance {
            replicas: ReplicaCount(replicas),
            // Where nothing is shared out, nothing that is there has to go.
            surge: if ranked.fault.is_some() { consumer.surge } else { ReplicaCount(surge) },
            creations: ReplicaCount(creations),
            charged: Watts(ranked.watts(present)),
            verdict,
        }
    }

    /// Holds the watts of one more replica, if they are free at every moment that counts.
    fn make_room(&self, ranked: &Ranked<'_>, instants: &[usize], held: &mut [Vec<u64>]) -> bool {
        let each = |instant: usize| {
            let is_late = ranked.consumer.is_late_for(self.instant(instant).at, self.now);
            if is_late { ranked.watts(1) } else { 0 } // else it is held already: it was granted
        };
        let fits = |instant: &usize| {
            ranked.path.iter().all(|node| {
                let all = held[*instant][node.0].saturating_add(each(*instant));
                all <= self.instant(*instant).for_devices(*node).0
            })
        };
        if !instants.iter().all(fits) {
            return false;
        }
        instants.iter().for_each(|i| add(&mut held[*i], &ranked.path, each(*i)));
        true
    }
}

fn take(free: &mut [u64], path: &[NodeIndex], watts: u64) {
    path.iter().for_each(|node| free[node.0] = free[node.0].saturating_sub(watts));
}

fn add(held: &mut [u64], path: &[NodeIndex], watts: u64) {
    path.iter().for_each(|node| held[node.0] = held[node.0].saturating_add(watts));
}
