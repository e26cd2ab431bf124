//! What holds for every tree, schedule, clock and wish.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::schedule::Course;
use super::tree::Tree;
use super::*;
use crate::replicas::NextCheck;

/// Days on which clocks change somewhere, and one on which none does.
const DAYS: [&str; 6] = [
    "2026-03-07T12:00:00Z", // the day before New York
    "2026-03-28T18:00:00Z", // before Berlin
    "2026-04-04T06:00:00Z", // before Lord Howe, by half an hour
    "2026-10-24T18:00:00Z",
    "2026-10-31T20:00:00Z",
    "2026-11-26T00:00:00Z",
];
const ZONES: [&str; 8] = [
    "UTC",
    "Asia/Riyadh",
    "Asia/Bangkok",
    "Asia/Kathmandu",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn moment(text: &str) -> Moment {
    let at: jiff::Timestamp = text.parse().unwrap();
    Moment(u64::try_from(at.as_millisecond()).unwrap())
}

fn named(name: &str) -> BudgetName {
    BudgetName::parse(name).unwrap()
}

fn windows() -> impl Strategy<Value = Window> {
    let days = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
    let minute = || (0_u32..24, prop::sample::select(vec![0_u32, 1, 15, 30, 59]));
    let zone = prop::sample::select(ZONES.to_vec());
    let days = prop::sample::subsequence(days.to_vec(), 0..=7);
    (days, minute(), minute(), zone, 0_u64..900).prop_map(|(days, from, to, zone, watts)| {
        let minute = |(h, m)| MinuteOfDay::parse(&format!("{h:02}:{m:02}")).unwrap();
        let time_zone = TimeZone::parse(zone).unwrap();
        Window { days, from: minute(from), to: minute(to), time_zone, watts: Watts(watts) }
    })
}

/// A tree: each budget is a part of an earlier one, or of none.
fn budgets() -> impl Strategy<Value = Vec<PowerBudget>> {
    let one = || {
        let schedule = prop::collection::vec(windows(), 0..3);
        (300_u64..1500, 0_u64..200, any::<prop::sample::Index>(), schedule)
    };
    prop::collection::vec(one(), 1..=NAMES.len()).prop_map(|budgets| {
        let budget = |(place, (watts, overhead, parent, schedule)): (usize, (_, _, _, _))| {
            let parent: prop::sample::Index = parent;
            let parent = parent.index(place + 1);
            PowerBudget {
                name: named(NAMES[place]),
                watts: Watts(watts),
                overhead: Watts(overhead),
                parent: (parent < place).then(|| named(NAMES[parent])),
                schedule,
            }
        };
        budgets.into_iter().enumerate().map(budget).collect()
    })
}

fn consumers() -> impl Strategy<Value = Vec<Consumer>> {
    let one = (0..NAMES.len(), 50_u64..400, -1_i32..2, 0_u64..3, 0_u32..4, 0_u64..1200);
    prop::collection::vec(one, 1..6).prop_map(|consumers| {
        let consumer = |(place, one): (usize, (usize, u64, i32, u64, u32, u64))| {
            let (budget, watts, priority, created, wished, drain) = one;
            Consumer {
                name: DeploymentName::parse("x", &format!("m{place}")).unwrap(),
                power: PowerWish {
                    budget: named(NAMES[budget]),
                    watts_per_replica: Watts(watts),
                    priority,
                },
                created: Moment(created),
                wished: ReplicaCount(wished),
                staying: 0,
                surge: ReplicaCount(0),
                drains: Vec::new(),
                drain: Millis::from_seconds(drain),
            }
        };
        consumers.into_iter().enumerate().map(consumer).collect()
    })
}

fn without_schedules(budgets: Vec<PowerBudget>) -> Vec<PowerBudget> {
    let plain = |budget| PowerBudget { schedule: Vec::new(), ..budget };
    budgets.into_iter().map(plain).collect()
}

fn fleet(budgets: Vec<PowerBudget>, consumers: Vec<Consumer>) -> Fleet {
    Fleet { budgets, consumers, leftovers: Vec::new() }
}

/// Replicas allowed, in the order of ranks.
fn by_rank(fleet: &Fleet) -> Vec<(DeploymentName, u32)> {
    let mut order: Vec<_> = fleet.consumers.iter().collect();
    order.sort_by_key(|c| (std::cmp::Reverse(c.power.priority), c.created, &c.name));
    let allowances = plan(fleet, moment(DAYS[0])).allowances;
    order.into_iter().map(|c| (c.name.clone(), allowances[&c.name].replicas.0)).collect()
}

/// Watts drawn in each budget by so many replicas of each deployment.
fn drawn(tree: &Tree<'_>, consumers: &[Consumer], count: impl Fn(&Consumer) -> u64) -> Vec<u64> {
    let mut drawn = vec![0; tree.nodes.len()];
    for consumer in consumers {
        let Some(index) = tree.find(&consumer.power.budget) else { continue };
        for node in &tree.node(index).path {
            drawn[node.0] += count(consumer) * consumer.power.watts_per_replica.0;
        }
    }
    drawn
}

/// Whether a window holds by the plain reading of a clock.
fn reads(window: &Window, at: Moment) -> bool {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at.0).unwrap()).unwrap();
    let name = format!("{:?}", window.time_zone);
    let zone = jiff::tz::TimeZoneDatabase::bundled().get(&name).unwrap();
    let shown = zone.to_datetime(at);
    let minute = format!("{:02}:{:02}", shown.hour(), shown.minute());
    let minute = MinuteOfDay::parse(&minute).unwrap();
    let is_day = |date: jiff::civil::Date| {
        let days = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
        let day = days[usize::try_from(date.weekday().to_monday_zero_offset()).unwrap()];
        window.days.is_empty() || window.days.contains(&day)
    };
    let (today, yesterday) = (shown.date(), shown.date().yesterday().unwrap());
    if window.from < window.to {
        is_day(today) && window.from <= minute && minute < window.to
    } else {
        (is_day(today) && window.from <= minute) || (is_day(yesterday) && minute < window.to)
    }
}

/// A small world that obeys: what it is told to drain is gone some time later.
struct Toy {
    budgets: Vec<PowerBudget>,
    consumers: Vec<Consumer>,
    /// By deployment: when each draining replica began, and when it will be gone.
    drains: BTreeMap<DeploymentName, Vec<(Moment, Moment)>>,
    seed: u64,
}

impl Toy {
    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % below.max(1)
    }

    /// One pass at `now`; returns when the next one is asked for.
    fn pass(&mut self, now: Moment) -> Moment {
        for consumer in &mut self.consumers {
            let drains = self.drains.entry(consumer.name.clone()).or_default();
            drains.retain(|(_, gone)| *gone > now);
            consumer.drains = drains.iter().map(|(since, _)| *since).collect();
        }
        let plan = plan(&fleet(self.budgets.clone(), self.consumers.clone()), now);
        for place in 0..self.consumers.len() {
            let allowance = &plan.allowances[&self.consumers[place].name];
            let consumer = &mut self.consumers[place];
            let stay = allowance.replicas.0.min(consumer.wished.0);
            let excess = consumer.staying.saturating_sub(stay);
            consumer.staying -= excess;
            let made = stay.saturating_sub(consumer.staying).min(allowance.creations.0);
            consumer.staying += made;
            let (name, longest) = (consumer.name.clone(), consumer.gone_after().0);
            for _ in 0..excess {
                let gone = now.after(Millis(1 + self.random(longest)));
                self.drains.entry(name.clone()).or_default().push((now, gone));
            }
        }
        match plan.next_check {
            NextCheck::In(wait) => now.after(wait),
            NextCheck::OnChange => now.after(Millis::from_seconds(7 * 24 * 3600)),
        }
    }

    /// Fails if a budget is exceeded at `at`, with what there is then.
    fn check(&self, at: Moment) -> Result<(), TestCaseError> {
        let tree = Tree::of(&self.budgets);
        let there = |consumer: &Consumer| {
            let drains = self.drains.get(&consumer.name);
            let draining = drains.map_or(0, |d| d.iter().filter(|(_, gone)| *gone > at).count());
            u64::from(consumer.staying) + draining as u64
        };
        let drawn = drawn(&tree, &self.consumers, there);
        for (node, drawn) in tree.nodes.iter().zip(drawn) {
            let watts = Course::of(node.budget, at, at).at(at);
            let fits = drawn == 0 || drawn + node.overhead.0 <= watts.0;
            prop_assert!(fits, "{}: {drawn} of {watts:?} at {at:?}", node.budget.name.as_str());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// From an empty world on, through steps and wishes that come and go, with a loop that is a
    /// little late each time.
    #[test]
    fn no_budget_is_exceeded_at_any_instant(
        budgets in budgets(),
        consumers in consumers(),
        day in prop::sample::select(DAYS.to_vec()),
        seed in any::<u64>(),
    ) {
        let begin = moment(day);
        let end = begin.after(Millis::from_seconds(36 * 3600));
        let mut edges: Vec<_> = budgets
            .iter()
            .flat_map(|b| Course::of(b, begin, end).edges(begin).collect::<Vec<_>>())
            .filter(|edge| *edge < end)
            .collect();
        edges.sort_unstable();
        let mut toy = Toy { budgets, consumers, drains: BTreeMap::new(), seed };
        let mut now = begin;
        for _ in 0..200 {
            if now >= end {
                break;
            }
            toy.check(now)?;
            let asked = toy.pass(now);
            toy.check(now)?;
            // Something else happens now and then: a wish changes, a replica is seen to be gone.
            let chance = now.after(Millis::from_seconds(20 + toy.random(3600)));
            let next = asked.min(chance);
            let next = next.after(Millis(toy.random(10_000))).max(Moment(now.0 + 1));
            for edge in edges.iter().filter(|edge| now < **edge && **edge < next) {
                toy.check(*edge)?;
            }
            now = next;
            if toy.random(3) == 0 {
                let place = toy.random(toy.consumers.len() as u64);
                let wished = ReplicaCount(u32::try_from(toy.random(4)).unwrap());
                toy.consumers[usize::try_from(place).unwrap()].wished = wished;
            }
        }
    }

    /// A window holds whenever clocks show its hours; it may hold longer where they change.
    #[test]
    fn windows_hold_by_the_clock(
        window in windows(),
        day in prop::sample::select(DAYS.to_vec()),
        minutes in 0_u64..(48 * 60),
    ) {
        let at = moment(day).after(Millis(minutes * 60_000));
        let budget = PowerBudget {
            name: named("a"),
            watts: Watts(1000),
            overhead: Watts(0),
            parent: None,
            schedule: vec![window.clone()],
        };
        let holds = Course::of(&budget, at, at).at(at) < Watts(1000);
        let (shown, is_quiet) = (reads(&window, at), day == DAYS[5]);
        prop_assert!(holds || !shown, "it is {shown} by the clock");
        prop_assert!(!is_quiet || holds == shown || window.from == window.to);
    }

    /// What is allowed fits, in every budget, and one more of whoever has too few would not.
    #[test]
    fn allowances_fit_and_waste_nothing(budgets in budgets(), consumers in consumers()) {
        let fleet = fleet(without_schedules(budgets), consumers);
        let tree = Tree::of(&fleet.budgets);
        let allowed: BTreeMap<_, _> = by_rank(&fleet).into_iter().collect();
        let ranks: Vec<_> = by_rank(&fleet).into_iter().map(|(name, _)| name).collect();
        let free = |node: &super::tree::Node<'_>| node.budget.watts.less(node.overhead).0;
        let drawn_by = |names: &[DeploymentName]| {
            let counts = |c: &Consumer| {
                if names.contains(&c.name) { u64::from(allowed[&c.name]) } else { 0 }
            };
            drawn(&tree, &fleet.consumers, counts)
        };
        for (node, drawn) in tree.nodes.iter().zip(drawn_by(&ranks)) {
            prop_assert!(drawn <= free(node));
        }
        for consumer in &fleet.consumers {
            let Some(index) = tree.find(&consumer.power.budget) else { continue };
            let place = ranks.iter().position(|name| *name == consumer.name).unwrap();
            let drawn = drawn_by(&ranks[..=place]);
            let each = consumer.power.watts_per_replica.0;
            let fits = |node: &super::tree::NodeIndex| {
                drawn[node.0] + each <= free(tree.node(*node))
            };
            let is_short = allowed[&consumer.name] < consumer.wished.0;
            prop_assert!(!is_short || !tree.node(index).path.iter().all(fits));
        }
    }

    /// Who ranks behind takes nothing from who ranks before.
    #[test]
    fn nobody_starves_a_higher_rank(budgets in budgets(), consumers in consumers()) {
        let all = fleet(without_schedules(budgets), consumers);
        let ranked = by_rank(&all);
        for place in 0..ranked.len() {
            let kept: Vec<_> = ranked[..=place].iter().map(|(name, _)| name.clone()).collect();
            let mut fewer = all.clone();
            fewer.consumers.retain(|consumer| kept.contains(&consumer.name));
            prop_assert_eq!(&by_rank(&fewer)[..], &ranked[..=place]);
        }
    }

    /// With more watts the first by rank whose share changes has more.
    #[test]
    fn more_watts_are_never_worse(
        budgets in budgets(),
        consumers in consumers(),
        more in prop::collection::vec(0_u64..500, NAMES.len()),
    ) {
        let less = fleet(without_schedules(budgets), consumers);
        let mut larger = less.clone();
        for (budget, more) in larger.budgets.iter_mut().zip(more) {
            budget.watts.0 += more;
        }
        let shares = |fleet: &Fleet| by_rank(fleet).into_iter().map(|(_, count)| count);
        let pairs: Vec<_> = shares(&less).zip(shares(&larger)).collect();
        let changed = pairs.iter().find(|(before, after)| before != after);
        prop_assert!(changed.is_none_or(|(before, after)| after > before), "{pairs:?}");
    }

    /// Whatever the parents are, rings and gaps too, there is an answer, twice the same.
    #[test]
    fn every_shape_has_an_answer(
        parents in prop::collection::vec(0_usize..6, NAMES.len()),
        consumers in consumers(),
    ) {
        let budgets = NAMES.iter().zip(parents).map(|(name, parent)| PowerBudget {
            name: named(name),
            watts: Watts(1000),
            overhead: Watts(10),
            parent: NAMES.get(parent).map(|name| named(name)),
            schedule: Vec::new(),
        });
        let fleet = fleet(budgets.collect(), consumers);
        let first = plan(&fleet, moment(DAYS[0]));
        for consumer in &fleet.consumers {
            let tree = Tree::of(&fleet.budgets);
            let node = tree.find(&consumer.power.budget).unwrap();
            let is_broken = tree.node(node).fault.is_some();
            let made = first.allowances[&consumer.name].creations.0;
            prop_assert!(!is_broken || made == 0);
        }
        prop_assert_eq!(first, plan(&fleet, moment(DAYS[0])));
    }
}
