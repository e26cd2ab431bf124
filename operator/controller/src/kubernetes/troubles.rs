//! Why StatefulSets cannot make their pods: the one thing about a replica that only events tell.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event as Happening;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use naru_plan::PendingReason;

/// What selects the events that tell it.
pub(super) const SELECTOR: &str = "regarding.kind=StatefulSet,reason=FailedCreate";

/// What is kept of the API server's words.
const WORDS_CHARACTERS_MAX: usize = 500;

/// The last failure of each StatefulSet that has no pod, by its uid.
#[derive(Default)]
pub(super) struct FailedCreates {
    failures: BTreeMap<String, Failure>,
    /// While a list is being read: the events that have been on it so far.
    listed: Option<BTreeSet<String>>,
}

struct Failure {
    event: String,
    time: Timestamp,
    why: PendingReason,
}

impl FailedCreates {
    /// Takes what the watch told; returns the uids of the StatefulSets that it is about.
    pub(super) fn take(&mut self, event: Event<Happening>) -> BTreeSet<String> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                BTreeSet::new()
            }
            Event::InitApply(happening) | Event::Apply(happening) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(key(&happening));
                }
                self.put(&happening).into_iter().collect()
            }
            Event::InitDone => {
                let Some(listed) = self.listed.take() else { return BTreeSet::new() };
                let is_gone = |_: &String, failure: &mut Failure| !listed.contains(&failure.event);
                self.failures.extract_if(.., is_gone).map(|(set, _)| set).collect()
            }
            Event::Delete(happening) => {
                let event = key(&happening);
                let is_gone = |_: &String, failure: &mut Failure| failure.event == event;
                self.failures.extract_if(.., is_gone).map(|(set, _)| set).collect()
            }
        }
    }

    fn put(&mut self, happening: &Happening) -> Option<String> {
        let set = happening.regarding.as_ref()?.uid.clone()?;
        let (event, time) = (key(happening), time(happening));
        if self.failures.get(&set).is_some_and(|known| known.time > time) {
            return None;
        }
        let why = why(happening.note.as_deref().unwrap_or_default());
        self.failures.insert(set.clone(), Failure { event, time, why });
        Some(set)
    }

    /// There is a pod: whatever stood in its way does not any more.
    pub(super) fn made(&mut self, pod: &Pod) {
        for owner in pod.metadata.owner_references.iter().flatten() {
            self.failures.remove(&owner.uid);
        }
    }

    /// Why a StatefulSet could not make its pod when it last tried.
    pub(super) fn of(&self, set_uid: &str) -> Option<&PendingReason> {
        self.failures.get(set_uid).map(|failure| &failure.why)
    }
}

fn key(happening: &Happening) -> String {
    format!("{}/{}", happening.namespace().unwrap_or_default(), happening.name_any())
}

/// When it happened last: events that are alike are one, with a later time.
fn time(happening: &Happening) -> Timestamp {
    let series = happening.series.as_ref().map(|series| series.last_observed_time.0);
    let last = happening.deprecated_last_timestamp.as_ref().map(|time| time.0);
    let first = happening.event_time.as_ref().map(|time| time.0);
    series.or(last).or(first).unwrap_or(Timestamp::MIN)
}

/// The controller's words are `create Pod NAME in StatefulSet NAME failed error: WHY`.
fn why(note: &str) -> PendingReason {
    let words = note.split_once("failed error: ").map_or(note, |(_, why)| why);
    let words = words.chars().take(WORDS_CHARACTERS_MAX).collect();
    // `exceeded quota`: it is used up; `failed quota`: it counts what the pod does not say.
    if note.contains("exceeded quota: ") || note.contains("failed quota: ") {
        PendingReason::QuotaExceeded(words)
    } else {
        PendingReason::Refused(words)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn happening(name: &str, set: &str, second: u32, note: &str) -> Happening {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "serving"},
            "regarding": {"kind": "StatefulSet", "uid": set},
            "reason": "FailedCreate",
            "note": format!("create Pod solar-0-0 in StatefulSet solar-0 failed error: {note}"),
            "eventTime": null,
            "deprecatedLastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        }))
        .unwrap()
    }

    fn pod_of(set: &str) -> Pod {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": set});
        serde_json::from_value(json!({"metadata": {"ownerReferences": [owner]}})).unwrap()
    }

    #[track_caller]
    fn check(fact: &str, creates: &mut FailedCreates, event: Event<Happening>, after: &str) {
        creates.take(event);
        let words: Vec<_> =
            creates.failures.iter().map(|(set, f)| format!("{set} {:?}", f.why)).collect();
        assert_eq!(words.join(", "), after, "{fact}");
    }

    #[test]
    fn events() {
        let all = &mut FailedCreates::default();
        let quota = "pods \"solar-0-0\" is forbidden: exceeded quota: small, used: pods=1";
        let used = format!("a QuotaExceeded({quota:?})");
        check("a quota", all, Event::Apply(happening("e1", "a", 1, quota)), &used);
        let unsaid = happening("e1", "a", 2, "failed quota: small: must specify memory");
        let words = "a QuotaExceeded(\"failed quota: small: must specify memory\")";
        check("a quota of what is not said", all, Event::Apply(unsaid), words);
        let no = "a Refused(\"no\")";
        check("another rule", all, Event::Apply(happening("e2", "a", 3, "no")), no);
        check("what is older", all, Event::Apply(happening("e1", "a", 2, quota)), no);
        check("its event is forgotten", all, Event::Delete(happening("e1", "a", 2, quota)), no);
        let both = "a Refused(\"no\"), b Refused(\"nor\")";
        check("another set", all, Event::Apply(happening("e3", "b", 1, "nor")), both);
        check("a list begins", all, Event::Init, both);
        check("with one of them", all, Event::InitApply(happening("e2", "a", 3, "no")), both);
        check("the other is forgotten", all, Event::InitDone, no);
        all.made(&pod_of("b"));
        check("another's pod", all, Event::InitDone, no);
        all.made(&pod_of("a"));
        check("a pod", all, Event::InitDone, "");
    }
}
