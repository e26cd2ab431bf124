use super::schedule::Course;
use super::*;
use crate::condition::{Reason, Truth};
use crate::replicas::NextCheck;
use crate::units::Watts;

/// 2026-11-26, a Thursday, 09:00 in UTC, 12:00 in Riyadh.
const NOW: Moment = Moment(1_795_683_600_000);
const MINUTE: u64 = 60_000;
const DRAIN: Millis = Millis::from_seconds(60);

fn named(name: &str) -> BudgetName {
    BudgetName::parse(name).unwrap()
}

fn budget(name: &str, watts: u64, parent: Option<&str>) -> PowerBudget {
    let (overhead, schedule) = (Watts(0), Vec::new());
    PowerBudget {
        name: named(name),
        watts: Watts(watts),
        overhead,
        parent: parent.map(named),
        schedule,
    }
}

/// `Mon,Tue 12:00-17:00 Asia/Riyadh 300`
fn window(text: &str) -> Window {
    let parts: Vec<_> = text.split(' ').collect();
    let day = |name: &str| match name {
        "Mon" => Day::Mon,
        "Tue" => Day::Tue,
        "Wed" => Day::Wed,
        "Thu" => Day::Thu,
        "Fri" => Day::Fri,
        "Sat" => Day::Sat,
        _ => Day::Sun,
    };
    let days = if parts[0] == "*" { "" } else { parts[0] };
    let (from, to) = parts[1].split_once('-').unwrap();
    Window {
        days: days.split(',').filter(|name| !name.is_empty()).map(day).collect(),
        from: MinuteOfDay::parse(from).unwrap(),
        to: MinuteOfDay::parse(to).unwrap(),
        time_zone: TimeZone::parse(parts[2]).unwrap(),
        watts: Watts(parts[3].parse().unwrap()),
    }
}

fn with_window(budget: PowerBudget, text: &str) -> PowerBudget {
    PowerBudget { schedule: vec![window(text)], ..budget }
}

/// A deployment that wishes so many replicas at 100 W each and has so many.
fn consumer(name: &str, budget: &str, wished: u32, staying: u32) -> Consumer {
    Consumer {
        name: DeploymentName::parse("x", name).unwrap(),
        power: PowerWish { budget: named(budget), watts_per_replica: Watts(100), priority: 0 },
        created: Moment(0),
        wished: ReplicaCount(wished),
        staying,
        surge: ReplicaCount(0),
        drains: Vec::new(),
        drain: DRAIN,
    }
}

fn priority(priority: i32, consumer: Consumer) -> Consumer {
    Consumer { power: PowerWish { priority, ..consumer.power }, ..consumer }
}

fn created(at: u64, consumer: Consumer) -> Consumer {
    Consumer { created: Moment(at), ..consumer }
}

fn each(watts: u64, consumer: Consumer) -> Consumer {
    let watts_per_replica = Watts(watts);
    Consumer { power: PowerWish { watts_per_replica, ..consumer.power }, ..consumer }
}

fn drains(count: usize, consumer: Consumer) -> Consumer {
    Consumer { drains: vec![NOW; count], ..consumer }
}

fn exchanging(consumer: Consumer) -> Consumer {
    Consumer { surge: ReplicaCount(1), ..consumer }
}

fn fleet(budgets: &[PowerBudget], consumers: &[Consumer]) -> Fleet {
    Fleet { budgets: budgets.into(), consumers: consumers.into(), leftovers: Vec::new() }
}

/// What each is allowed, `a 2`, and `+1` for what it may make now, `^` where a successor fits.
fn words(plan: &FleetPlan) -> String {
    let word = |(name, allowance): (&DeploymentName, &Allowance)| {
        let made = match allowance.creations.0 {
            0 => String::new(),
            count => format!("+{count}"),
        };
        let surge = "^".repeat(allowance.surge.0 as usize);
        format!("{} {}{made}{surge}", name.name(), allowance.replicas.0)
    };
    plan.allowances.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn check(fact: &str, fleet: &Fleet, expected: &str) {
    assert_eq!(words(&plan(fleet, NOW)), expected, "{fact}");
}

#[track_caller]
fn says(fact: &str, fleet: &Fleet, name: &str, reason: Reason, expected: &str) {
    let plan = plan(fleet, NOW);
    let name = DeploymentName::parse("x", name).unwrap();
    let verdict = &plan.allowances[&name].verdict;
    assert_eq!((verdict.reason, verdict.message.as_str()), (reason, expected), "{fact}");
    assert_eq!(verdict.truth == Truth::True, reason == Reason::WithinBudget, "{fact}");
}

#[test]
fn room() {
    let hall = [budget("hall", 250, None)];
    let one = |wished, staying| fleet(&hall, &[consumer("a", "hall", wished, staying)]);
    check("all that is wished fits", &one(2, 0), "a 2+2");
    check("what does not fit waits", &one(3, 0), "a 2+2");
    check("what is there is charged", &one(3, 1), "a 2+1");
    check("what is there and does not fit has to go", &one(3, 3), "a 2");
    check("nothing is made beyond the wish", &one(1, 1), "a 1");
    let two = drains(1, consumer("a", "hall", 3, 1));
    check("what drains is charged still", &fleet(&hall, &[two]), "a 2");
    let overhead = PowerBudget { overhead: Watts(100), ..hall[0].clone() };
    check("overhead counts", &fleet(&[overhead], &[consumer("a", "hall", 3, 0)]), "a 1+1");
}

#[test]
fn ranks() {
    let hall = [budget("hall", 300, None)];
    let both = |a, b| fleet(&hall, &[a, b]);
    let (a, b) = (consumer("a", "hall", 2, 0), consumer("b", "hall", 2, 0));
    check("of equals the first by name", &both(a.clone(), b.clone()), "a 2+2, b 1+1");
    check("the older", &both(created(5, a.clone()), b.clone()), "a 1+1, b 2+2");
    let first = priority(1, created(9, consumer("b", "hall", 3, 0)));
    check("priority before age", &both(a.clone(), first), "a 0, b 3+3");
    let large = priority(1, each(400, b));
    check("who can never fit takes nothing", &both(a, large), "a 2+2, b 0");
    let (running, comes) = (consumer("a", "hall", 3, 3), consumer("b", "hall", 2, 0));
    let comes = priority(1, comes);
    check("who comes first waits until there is room", &both(running, comes), "a 1, b 2");
    let (running, comes) = (drains(2, consumer("a", "hall", 3, 1)), consumer("b", "hall", 2, 0));
    check("also while it drains", &both(running, priority(1, comes)), "a 1, b 2");
}

#[test]
fn trees() {
    let site = [budget("site", 300, None), budget("hall", 200, Some("site"))];
    let a = || consumer("a", "hall", 3, 0);
    check("a part binds", &fleet(&site, &[a()]), "a 2+2");
    let b = consumer("b", "site", 2, 0);
    check("the whole binds", &fleet(&site, &[a(), b.clone()]), "a 2+2, b 1+1");
    let b = priority(1, b);
    check("its other parts too", &fleet(&site, &[a(), b]), "a 1+1, b 2+2");
    let hall = PowerBudget { overhead: Watts(150), ..site[1].clone() };
    let tree = [site[0].clone(), PowerBudget { watts: Watts(1000), ..hall }];
    check("the overhead of a part is the whole's", &fleet(&tree, &[a()]), "a 1+1");
    let left = Leftover { budget: named("hall"), watts: Watts(100), gone_by: None };
    let leftovers = vec![left];
    check("so is what is left", &Fleet { leftovers, ..fleet(&site, &[a()]) }, "a 2+1");
}

#[test]
fn what_hangs_nowhere_starts_nothing() {
    let ring = [budget("a", 900, Some("b")), budget("b", 900, Some("a"))];
    let runs = fleet(&ring, &[consumer("m", "a", 3, 1)]);
    check("what runs goes on, and nothing else", &runs, "m 1");
    says(
        "a ring",
        &runs,
        "m",
        Reason::PowerBudgetInvalid,
        "the budget would be part of itself: a in b in a; what runs goes on, and nothing more is \
         started",
    );
    let none = fleet(&[], &[consumer("m", "hell", 3, 0)]);
    check("no budget", &none, "m 0");
    let orphan = [budget("a", 900, Some("site")), budget("b", 300, None)];
    let both = fleet(&orphan, &[consumer("m", "a", 3, 0), consumer("n", "b", 1, 0)]);
    check("a part of nothing; others go on", &both, "m 0, n 1+1");
    let states: Vec<_> = plan(&both, NOW).budgets.into_iter().map(|b| b.state).collect();
    let missing = BudgetState::Broken(BudgetFault::Missing(named("site")));
    assert_eq!(states, [missing, BudgetState::Holds]);
}

#[test]
fn successors() {
    let hall = [budget("hall", 300, None)];
    let a = |wished, staying| exchanging(consumer("a", "hall", wished, staying));
    check("one more fits", &fleet(&hall, &[a(2, 2)]), "a 2+1^");
    check("it stays until its time has come", &fleet(&hall, &[a(2, 3)]), "a 2^");
    check("none fits", &fleet(&hall, &[a(3, 3)]), "a 3");
    let many = Consumer { surge: ReplicaCount(3), ..a(1, 1) };
    check("as many as fit", &fleet(&hall, &[many]), "a 1+2^^");
    let b = created(1, consumer("b", "hall", 1, 0));
    check("wishes are before successors", &fleet(&hall, &[a(2, 2), b]), "a 2, b 1+1");
}

#[test]
fn steps_are_met_before_they_begin() {
    // A drain takes 60 s, 5 s of grace, 5 s to be gone, and begins 15 s before it must.
    let lead = 85_000;
    let step = |minute: u32| {
        let text = format!("* 09:{minute:02}-10:00 UTC 150");
        let hall = [with_window(budget("hall", 300, None), &text)];
        fleet(&hall, &[consumer("a", "hall", 3, 2)])
    };
    check("a step that is far", &step(2), "a 3+1");
    assert_eq!(plan(&step(2), NOW).next_check, NextCheck::In(Millis(2 * MINUTE - lead)));
    check("a step that is near", &step(1), "a 1");
    assert_eq!(plan(&step(1), NOW).next_check, NextCheck::In(Millis(MINUTE)));
    check("a step that is there", &step(0), "a 1");
    assert_eq!(plan(&step(0), NOW).next_check, NextCheck::In(Millis(60 * MINUTE)));
    let slow = |consumer| Consumer { drain: Millis::from_seconds(3600), ..consumer };
    let hall = [with_window(budget("hall", 300, None), "* 09:40-10:00 UTC 150")];
    let both = [consumer("a", "hall", 1, 1), slow(priority(-1, consumer("b", "hall", 2, 2)))];
    check("who drains longer begins sooner", &fleet(&hall, &both), "a 1, b 0");
    let late = [drains(1, slow(consumer("a", "hall", 0, 0))), consumer("b", "hall", 2, 0)];
    let hall = [with_window(budget("hall", 300, None), "* 09:01-10:00 UTC 150")];
    check("what will still drain then is charged then", &fleet(&hall, &late), "a 0, b 0");
    let late = [slow(consumer("a", "hall", 0, 1)), consumer("b", "hall", 2, 0)];
    check("and what is about to drain", &fleet(&hall, &late), "a 0, b 0");
}

#[test]
fn what_is_said() {
    let hall = [budget("hall", 250, None)];
    let (a, b) = (consumer("a", "hall", 1, 1), consumer("b", "hall", 3, 1));
    let both = fleet(&hall, &[a, b]);
    let fits = "1 replicas at 100 W fit into budget hall";
    says("all fits", &both, "a", Reason::WithinBudget, fits);
    let full = "1 of 3 replicas fit: one more takes 100 W, and budget hall lacks 50 W; room \
                comes with that much more, or with fewer replicas of x/a";
    says("not all fits", &both, "b", Reason::PowerBudgetFull, full);
    let large = fleet(&hall, &[each(700, consumer("a", "hall", 1, 0))]);
    let infeasible = "no replica fits: each takes 700 W, and budget hall has 250 W, of which \
                      overhead takes 0 W";
    says("nothing ever fits", &large, "a", Reason::PowerInfeasible, infeasible);
    let step = [with_window(hall[0].clone(), "* 09:01-10:00 UTC 150")];
    let step = fleet(&step, &[consumer("a", "hall", 2, 2)]);
    let soon = "1 of 2 replicas fit from 2026-11-26T09:01:00Z on: one more takes 100 W, and \
                budget hall lacks 50 W; room comes with that much more; its schedule gives more \
                at 2026-11-26T10:00:00Z";
    says("a step is near", &step, "a", Reason::PowerBudgetFull, soon);
    let waits = fleet(&hall, &[drains(1, consumer("a", "hall", 2, 1))]);
    let words = plan(&waits, NOW).allowances.into_values().next().unwrap().verdict.message;
    assert!(words.contains("it is made when they are gone"), "{words}");
    let exchange = fleet(&hall, &[exchanging(consumer("a", "hall", 2, 2))]);
    let words = plan(&exchange, NOW).allowances.into_values().next().unwrap().verdict.message;
    assert!(words.starts_with("a successor takes 100 W beside"), "{words}");
}

#[test]
fn budgets_say_how_they_stand() {
    let site = PowerBudget { overhead: Watts(50), ..budget("site", 400, None) };
    let hall = with_window(budget("hall", 300, Some("site")), "* 08:00-10:00 UTC 150");
    let dark = PowerBudget { overhead: Watts(60), ..budget("dark", 60, Some("site")) };
    let a = drains(1, consumer("a", "hall", 1, 1));
    let reports = plan(&fleet(&[site, hall, dark], &[a]), NOW).budgets;
    let words: Vec<_> = reports
        .iter()
        .map(|r| {
            let BudgetReport { name, watts, overhead, charged, headroom, state } = r;
            let (name, watts) = (name.as_str(), watts.0);
            format!("{name} {watts}-{}-{} {} {state:?}", overhead.0, charged.0, headroom.0)
        })
        .collect();
    let expected =
        ["site 400-60-200 140 Holds", "hall 150-0-200 0 Exceeded", "dark 60-60-0 0 Infeasible"];
    assert_eq!(words, expected);
}

/// Whether a window holds at a moment of UTC, given as `2026-11-26T09:00`.
#[track_caller]
fn holds(fact: &str, window: &str, at: &str, expected: bool) {
    let moment = |at: &str| {
        let at: jiff::Timestamp = format!("{at}:00Z").parse().unwrap();
        Moment(u64::try_from(at.as_millisecond()).unwrap())
    };
    let budget = with_window(budget("hall", 1000, None), window);
    let course = Course::of(&budget, moment(at), moment(at));
    assert_eq!(course.at(moment(at)) < Watts(1000), expected, "{fact}");
}

#[test]
fn windows() {
    let riyadh = "Sun,Mon,Tue,Wed,Thu 12:00-17:00 Asia/Riyadh 300";
    holds("noon in Riyadh", riyadh, "2026-11-26T09:00", true);
    holds("a minute before", riyadh, "2026-11-26T08:59", false);
    holds("the last minute", riyadh, "2026-11-26T13:59", true);
    holds("the end is not in it", riyadh, "2026-11-26T14:00", false);
    holds("a Friday is not in it", riyadh, "2026-11-27T09:00", false);
    let night = "Thu 22:00-06:00 UTC 300";
    holds("it lasts into the next day", night, "2026-11-27T05:59", true);
    holds("which is not one of its own", night, "2026-11-27T22:00", false);
    holds("a whole day", "Thu 00:00-24:00 UTC 300", "2026-11-26T23:59", true);
    holds("and not the next", "Thu 00:00-24:00 UTC 300", "2026-11-27T00:00", false);
}

#[test]
fn clocks_that_change() {
    // New York, 2026-03-08: 02:00 EST is 03:00 EDT (07:00Z); 2026-11-01: 02:00 EDT is 01:00 EST.
    let early = "* 01:30-03:30 America/New_York 300";
    holds("in spring it is an hour shorter", early, "2026-03-08T07:29", true);
    holds("and ends by the new clock", early, "2026-03-08T07:30", false);
    holds("in autumn it is an hour longer", early, "2026-11-01T05:30", true);
    holds("and ends by the new clock too", early, "2026-11-01T08:29", true);
    holds("not later", early, "2026-11-01T08:30", false);
    let skipped = "* 02:15-02:45 America/New_York 300";
    holds("minutes that no clock shows count all the same", skipped, "2026-03-08T07:00", true);
    let twice = "* 01:15-01:45 America/New_York 300";
    holds("what clocks show twice holds from the first", twice, "2026-11-01T05:15", true);
    holds("to the last", twice, "2026-11-01T06:44", true);
    holds("and no longer", twice, "2026-11-01T06:45", false);
}

#[test]
fn words_that_are_no_times() {
    for text in ["", "12", "24:01", "12:60", "1:00", "+1:00", "12:0 "] {
        let refused = Err(InvalidSchedule::Minute(text.to_owned()));
        assert_eq!(MinuteOfDay::parse(text), refused, "{text:?}");
    }
    let nowhere = "there is no time zone \"Asia/Nowhere\" in the IANA database (Asia/Riyadh, UTC)";
    assert_eq!(TimeZone::parse("Asia/Nowhere").unwrap_err().to_string(), nowhere);
}
