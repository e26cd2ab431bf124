//! What the budgets give to devices: now, and at each step down that somebody must prepare for.

use std::collections::BTreeSet;

use super::schedule::Course;
use super::tree::{NodeIndex, Tree};
use crate::replicas::NextCheck;
use crate::units::{Millis, Moment, Watts};

/// How far ahead schedules are read: a window of next week is still seen.
const AHEAD: Millis = Millis::from_seconds(8 * 24 * 3600);

/// The watts for devices of every budget at one moment.
pub(super) struct Instant {
    pub(super) at: Moment,
    for_devices: Vec<Watts>,
}

impl Instant {
    /// What the devices of one budget may draw together.
    pub(super) fn for_devices(&self, node: NodeIndex) -> Watts {
        self.for_devices[node.0]
    }

    /// That of every budget.
    pub(super) fn all(&self) -> &[Watts] {
        &self.for_devices
    }
}

/// What the budgets give, from now on.
pub(super) struct Supply {
    now: Moment,
    courses: Vec<Course>,
    /// Now, then the steps down that are near, the nearest first.
    pub(super) instants: Vec<Instant>,
}

impl Supply {
    /// `leads` are those of all who draw from the budgets.
    pub(super) fn of(tree: &Tree<'_>, leads: &BTreeSet<Millis>, now: Moment) -> Self {
        let lead_max = leads.last().copied().unwrap_or_default();
        let until = now.after(AHEAD).after(lead_max);
        let course = |budget| Course::of(budget, now, until);
        let courses: Vec<_> = tree.nodes.iter().map(|node| course(node.budget)).collect();
        let mut moments = BTreeSet::from([now]);
        for course in &courses {
            let falls = course.edges(now).filter(|edge| course.falls_at(*edge));
            moments.extend(falls.filter(|edge| *edge <= now.after(lead_max)));
        }
        let for_devices = |at| {
            let nodes = tree.nodes.iter().zip(&courses);
            nodes.map(|(node, course)| course.at(at).less(node.overhead)).collect()
        };
        let instant = |at| Instant { at, for_devices: for_devices(at) };
        let instants = moments.into_iter().map(instant).collect();
        Self { now, courses, instants }
    }

    /// The watts of one budget at a moment.
    pub(super) fn watts(&self, node: NodeIndex, at: Moment) -> Watts {
        self.courses[node.0].at(at)
    }

    /// When a budget has more than it has at `at`, if its schedule says so.
    pub(super) fn rises_after(&self, node: NodeIndex, at: Moment) -> Option<Moment> {
        let course = &self.courses[node.0];
        let before = course.at(at);
        course.edges(at).filter(|edge| course.at(*edge) > before).min()
    }

    /// When something is to be decided anew though nothing else changes: at each step, and before
    /// each step down as early as somebody has to prepare for it.
    pub(super) fn next_check(&self, leads: &BTreeSet<Millis>) -> NextCheck {
        let edges = self
            .courses
            .iter()
            .flat_map(|course| course.edges(self.now).map(|edge| (edge, course.falls_at(edge))));
        let looks = edges.flat_map(|(edge, falls)| {
            let leads = leads.iter().filter(move |_| falls);
            let early = leads.map(move |lead| Moment(edge.0.saturating_sub(lead.0)));
            early.chain([edge])
        });
        let first = looks.filter(|look| *look > self.now).min();
        first.map_or(NextCheck::OnChange, |first| NextCheck::In(first.since(self.now)))
    }
}
