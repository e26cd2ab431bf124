//! Why StatefulSets cannot make their pods, and nodes not start them: what of a replica only events
//! tell. Of each kind of event the last one counts, while what it speaks of is not there.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event as Happening;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use naru_plan::PendingReason;

/// What selects events: of StatefulSets that cannot make their pod, and of pods whose node cannot
/// mount their volumes, or not make the sandbox that their containers are started in.
pub(super) const CREATES: &str = "regarding.kind=StatefulSet,reason=FailedCreate";
pub(super) const MOUNTS: &str = "regarding.kind=Pod,reason=FailedMount";
pub(super) const SANDBOXES: &str = "regarding.kind=Pod,reason=FailedCreatePodSandBox";

/// What is kept of the cluster's words.
const WORDS_CHARACTERS_MAX: usize = 500;
/// Hexadecimal digits in a row that are the name of a sandbox, another at each attempt.
const ID_DIGITS_MIN: usize = 32;
/// How the kubelet sums up, minutes later, what it has said of each volume.
const SUMMARY: &str = "Unable to attach or mount volumes";

/// The last failure of one kind of each object, by its uid.
pub(super) struct Troubles {
    /// What a note means.
    why: fn(&str) -> PendingReason,
    failures: BTreeMap<String, Failure>,
    /// While a list is being read: the events that have been on it so far.
    listed: Option<BTreeSet<String>>,
}

/// What one event told.
pub(super) struct Failure {
    event: String,
    pub(super) time: Timestamp,
    pub(super) why: PendingReason,
}

impl Troubles {
    /// Of StatefulSets.
    pub(super) fn of_creates() -> Self {
        Self::new(not_made)
    }

    /// Of the volumes of pods.
    pub(super) fn of_mounts() -> Self {
        Self::new(|note| PendingReason::MountMissing(shortened(note)))
    }

    /// Of the sandboxes of pods.
    pub(super) fn of_sandboxes() -> Self {
        Self::new(|note| PendingReason::Refused(shortened(&without_ids(note))))
    }

    fn new(why: fn(&str) -> PendingReason) -> Self {
        Self { why, failures: BTreeMap::new(), listed: None }
    }

    /// Takes what the watch told; returns the uids of the objects that it is about.
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
        let object = happening.regarding.as_ref()?.uid.clone()?;
        let (event, time) = (key(happening), time(happening));
        let note = happening.note.as_deref().unwrap_or_default();
        let says_less = |known: &Failure| {
            known.time > time || (note.starts_with(SUMMARY) && known.event != event)
        };
        if self.failures.get(&object).is_some_and(says_less) {
            return None;
        }
        let why = (self.why)(note);
        self.failures.insert(object.clone(), Failure { event, time, why });
        Some(object)
    }

    /// There is a pod: whatever stood in its way does not any more.
    pub(super) fn made(&mut self, pod: &Pod) {
        for owner in pod.metadata.owner_references.iter().flatten() {
            self.failures.remove(&owner.uid);
        }
    }

    /// What went wrong with an object when it was last tried.
    pub(super) fn of(&self, uid: &str) -> Option<&Failure> {
        self.failures.get(uid)
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

/// The uid of the object that something is told of; what is forgotten is told of nothing.
pub(super) fn about(event: &Event<Happening>) -> Option<&str> {
    match event {
        Event::Apply(happening) | Event::InitApply(happening) => {
            happening.regarding.as_ref()?.uid.as_deref()
        }
        Event::Init | Event::InitDone | Event::Delete(_) => None,
    }
}

fn shortened(words: &str) -> String {
    words.chars().take(WORDS_CHARACTERS_MAX).collect()
}

/// With `…` in the place of names that are another at each attempt, so that the words stay.
fn without_ids(words: &str) -> String {
    let mut kept = String::new();
    let mut rest = words;
    while !rest.is_empty() {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let digits = rest.bytes().take_while(|byte| is_digit(*byte)).count();
        if digits >= ID_DIGITS_MIN {
            kept.push('…');
            rest = &rest[digits..];
            continue;
        }
        let next = rest.chars().nth(digits).map_or(0, char::len_utf8);
        let (taken, left) = rest.split_at(digits + next);
        kept.push_str(taken);
        rest = left;
    }
    kept
}

/// The controller's words are `create Pod NAME in StatefulSet NAME failed error: WHY`.
fn not_made(note: &str) -> PendingReason {
    let words = shortened(note.split_once("failed error: ").map_or(note, |(_, why)| why));
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
    fn check(fact: &str, troubles: &mut Troubles, event: Event<Happening>, after: &str) {
        troubles.take(event);
        let words: Vec<_> =
            troubles.failures.iter().map(|(set, f)| format!("{set} {:?}", f.why)).collect();
        assert_eq!(words.join(", "), after, "{fact}");
    }

    #[test]
    fn events() {
        let all = &mut Troubles::of_creates();
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

    fn of_pod(name: &str, second: u32, note: &str) -> Event<Happening> {
        let mut told = happening(name, "p", second, "");
        told.note = Some(note.to_owned());
        Event::Apply(told)
    }

    #[test]
    fn what_keeps_pods_from_starting() {
        let volume = "MountVolume.SetUp failed for volume \"s\" : secret \"nobody\" not found";
        let all = &mut Troubles::of_mounts();
        let said = format!("p MountMissing({volume:?})");
        check("a volume", all, of_pod("e1", 1, volume), &said);
        let sum = format!("{SUMMARY}: unmounted volumes=[s]: timed out");
        check("a summary says less", all, of_pod("e2", 2, &sum), &said);
        let alone = &mut Troubles::of_mounts();
        check(
            "than nothing it is more",
            alone,
            of_pod("e2", 2, &sum),
            &format!("p MountMissing({sum:?})"),
        );
        let all = &mut Troubles::of_sandboxes();
        let id = "0123456789abcdef".repeat(4);
        let note = format!("Failed: sandbox \"{id}\": no network ünd plügin");
        let said = "p Refused(\"Failed: sandbox \\\"…\\\": no network ünd plügin\")";
        check("a sandbox, whatever it is called", all, of_pod("e1", 1, &note), said);
    }
}
