//! Which deployments the loop has to look at, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use naru_plan::power::Allowance;
use naru_plan::{DeploymentName, Desired, Failures, Millis, NextCheck};
use tokio::time::{Duration, Instant};

use crate::scale::Scaled;
use crate::world::{Changed, Decision};

/// The longest time between two looks, should an event ever be missed.
pub(crate) const RESYNC: Millis = Millis::from_seconds(30);

/// Every deployment there is, each with the time of its next look.
#[derive(Default)]
pub(crate) struct Agenda {
    entries: BTreeMap<DeploymentName, Entry>,
    /// Whose decisions are being carried out.
    under_way: BTreeMap<DeploymentName, UnderWay>,
    /// When a schedule of the power budgets asks for a look at all who draw from them.
    power_due: Option<Instant>,
}

/// A decision that is being carried out.
struct UnderWay {
    /// Whether it was due again meanwhile.
    is_due: bool,
    /// The replicas there will be if all that it makes is made: each draws power once it is there.
    expected: u32,
}

/// One that is due.
pub(crate) struct Due {
    /// As it is wished.
    pub(crate) desired: Arc<Desired>,
    /// Whether a decision about it is being carried out: it is due again once that is over.
    pub(crate) is_under_way: bool,
}

struct Entry {
    desired: Arc<Desired>,
    due: Instant,
    failures: Failures,
    scaled: Option<Scaled>,
    /// What the power budgets allowed when it was decided on last.
    allowance: Option<Allowance>,
}

impl Agenda {
    /// Takes the whole of what is wished. What is new or different is due at once; what is not
    /// wished any more is forgotten.
    pub(crate) fn wish(&mut self, desired: Vec<Desired>, now: Instant) {
        let names: BTreeSet<_> = desired.iter().map(|desired| desired.name.clone()).collect();
        self.entries.retain(|name, _| names.contains(name));
        for desired in desired {
            match self.entries.get_mut(&desired.name) {
                Some(entry) if *entry.desired == desired => {}
                Some(entry) => (entry.desired, entry.due) = (Arc::new(desired), now),
                None => {
                    let name = desired.name.clone();
                    let failures = Failures::default();
                    let (desired, due) = (Arc::new(desired), now);
                    let (scaled, allowance) = (None, None);
                    let entry = Entry { desired, due, failures, scaled, allowance };
                    self.entries.insert(name, entry);
                }
            }
        }
    }

    /// Something may have changed: these are due at once. One whose last decision failed is too,
    /// so an event cuts its wait short.
    pub(crate) fn mark(&mut self, changed: &Changed, now: Instant) {
        match changed {
            Changed::Everything => self.entries.values_mut().for_each(|entry| entry.due = now),
            Changed::Only(names) => {
                for name in names {
                    if let Some(entry) = self.entries.get_mut(name) {
                        entry.due = entry.due.min(now);
                    }
                }
            }
        }
    }

    /// What is due, as it is wished. Each is looked at again after [`RESYNC`] at the latest.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Due> {
        let due = self.entries.iter_mut().filter(|(_, entry)| entry.due <= now);
        due.map(|(name, entry)| {
            entry.due = now + duration(RESYNC);
            let under_way = self.under_way.get_mut(name);
            let is_under_way = under_way.map(|under_way| under_way.is_due = true).is_some();
            Due { desired: Arc::clone(&entry.desired), is_under_way }
        })
        .collect()
    }

    /// A decision about one begins to be carried out; so many replicas may come to stay by it.
    pub(crate) fn begins(&mut self, name: &DeploymentName, expected: u32) {
        self.under_way.insert(name.clone(), UnderWay { is_due: false, expected });
    }

    /// The replicas of one that there may be at any moment, by what is being carried out.
    pub(crate) fn expected(&self, name: &DeploymentName) -> u32 {
        self.under_way.get(name).map_or(0, |under_way| under_way.expected)
    }

    /// That is over, well or not; returns the wish, if there still is one.
    pub(crate) fn ends(&mut self, name: &DeploymentName, now: Instant) -> Option<Arc<Desired>> {
        let is_due = self.under_way.remove(name).is_some_and(|under_way| under_way.is_due);
        let entry = self.entries.get_mut(name)?;
        if is_due {
            entry.due = now;
        }
        Some(Arc::clone(&entry.desired))
    }

    /// Looks at one again after `wait`, if nothing asks for it sooner.
    pub(crate) fn look_in(&mut self, name: &DeploymentName, wait: Millis, now: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.due = entry.due.min(now + duration(wait));
        }
    }

    /// What is remembered of how many replicas naru chose.
    pub(crate) fn scaled(&self, name: &DeploymentName) -> Option<&Scaled> {
        self.entries.get(name)?.scaled.as_ref()
    }

    /// Remembers it; `None`: the number is not naru's to choose.
    pub(crate) fn remember(&mut self, name: &DeploymentName, scaled: Option<Scaled>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.scaled = scaled;
        }
    }

    /// Takes what the power budgets allow. Those whose share is another than when they were decided
    /// on last are due at once, or once what is under way is over.
    pub(crate) fn allow(
        &mut self,
        mut allowances: BTreeMap<DeploymentName, Allowance>,
        decisions: &[Decision],
        now: Instant,
    ) {
        let decided: BTreeSet<_> = decisions.iter().map(|it| &it.desired.name).collect();
        for (name, entry) in &mut self.entries {
            let allowance = allowances.remove(name);
            if decided.contains(name) {
                entry.allowance = allowance;
            } else if entry.allowance != allowance {
                match self.under_way.get_mut(name) {
                    Some(under_way) => under_way.is_due = true,
                    None => entry.due = entry.due.min(now),
                }
            }
        }
    }

    /// When the power budgets have to be looked at again though nothing changes.
    pub(crate) fn look_at_power(&mut self, next_check: NextCheck, now: Instant) {
        self.power_due = match next_check {
            NextCheck::In(wait) => Some(now + duration(wait)),
            NextCheck::OnChange => None,
        };
    }

    /// A decision was carried out.
    pub(crate) fn succeeded(&mut self, name: &DeploymentName) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.failures = Failures::default();
        }
    }

    /// A decision could not be carried out: it is made again after a wait that grows.
    pub(crate) fn failed(&mut self, name: &DeploymentName, now: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.failures = entry.failures.and_another(Millis(0));
            entry.due = entry.due.min(now + duration(entry.failures.wait()));
        }
    }

    /// When the next one is due.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let due = self.entries.values().map(|entry| entry.due);
        let first = due.chain(self.power_due).min();
        first.unwrap_or(now + duration(RESYNC))
    }

    /// Whether it is wished, or left from an earlier wish.
    pub(crate) fn knows(&self, name: &DeploymentName) -> bool {
        self.entries.contains_key(name)
    }

    /// Everything that is wished.
    pub(crate) fn desired(&self) -> impl Iterator<Item = &Arc<Desired>> {
        self.entries.values().map(|entry| &entry.desired)
    }
}

fn duration(millis: Millis) -> Duration {
    Duration::from_millis(millis.0)
}

#[cfg(test)]
mod tests {
    use naru_api::{Source, check};

    use super::*;

    fn wish(name: &str, replicas: u32) -> Desired {
        let text = format!(
            "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: {name}}}\n\
             spec: {{model: {{uri: file:///m.gguf}}, replicas: {replicas}}}\n"
        );
        check(&[Source { file: "a.yaml", text: &text }]).unwrap().deployments.remove(0)
    }

    #[track_caller]
    fn due(fact: &str, agenda: &mut Agenda, now: Instant, expected: &str) {
        let due: Vec<_> = agenda
            .take_due(now)
            .iter()
            .map(|Due { desired, is_under_way }| {
                let name = desired.name.name();
                format!("{name}{}{}", desired.replicas.0, if *is_under_way { "~" } else { "" })
            })
            .collect();
        assert_eq!(due.join(" "), expected, "{fact}");
    }

    #[test]
    fn who_is_due() {
        let (mut agenda, begun) = (Agenda::default(), Instant::now());
        let after = |millis| begun + Duration::from_millis(millis);
        let agenda = &mut agenda;
        agenda.wish(vec![wish("a", 1), wish("b", 1)], begun);
        due("what is new", agenda, begun, "a1 b1");
        due("is looked at once", agenda, begun, "");
        agenda.wish(vec![wish("a", 1), wish("b", 2)], begun);
        due("what is wished otherwise", agenda, begun, "b2");
        let b = wish("b", 2).name;
        agenda.mark(&Changed::Only([b.clone()].into()), begun);
        due("what an event is about", agenda, begun, "b2");
        agenda.mark(&Changed::Everything, begun);
        due("all of it", agenda, begun, "a1 b2");
        agenda.look_in(&b, Millis(100), begun);
        assert_eq!(agenda.next(begun), after(100));
        due("not yet", agenda, after(99), "");
        due("when a plan asked for it", agenda, after(100), "b2");
        agenda.failed(&b, begun);
        due("what failed waits", agenda, after(249), "");
        due("for a quarter of a second", agenda, after(250), "b2");
        agenda.failed(&b, begun);
        due("then for half of one", agenda, after(499), "");
        due("and comes again", agenda, after(500), "b2");
        agenda.succeeded(&b);
        agenda.failed(&b, begun);
        due("a success is a new beginning", agenda, after(250), "b2");
        due("all are looked at now and then", agenda, after(40_000), "a1 b2");
        agenda.begins(&b, 0);
        agenda.mark(&Changed::Only([b.clone()].into()), begun);
        due("what is under way is told apart", agenda, begun, "b2~");
        due("and not due again", agenda, after(1), "");
        agenda.ends(&b, begun);
        due("until that is over", agenda, begun, "b2");
        agenda.begins(&b, 0);
        agenda.ends(&b, begun);
        due("if anything happened meanwhile", agenda, after(1), "");
        agenda.wish(vec![wish("a", 1)], begun);
        due("what is not wished is forgotten", agenda, after(99_000), "a1");
        assert!(!agenda.knows(&b));
    }
}
