//! Everybody who has keys, as seen last.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use naru_plan::{Moment, Tenant};

use super::observe;

/// The tenants of the cluster.
#[derive(Default)]
pub(super) struct Tenants {
    known: BTreeMap<String, (Moment, Tenant)>,
    listed: Option<BTreeSet<String>>,
    is_complete: bool,
    has_news: bool,
}

impl Tenants {
    /// Takes what the watch told.
    pub(super) fn take(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(object) | Event::Apply(object) => self.put(&object),
            Event::InitDone => {
                self.is_complete = true;
                if let Some(listed) = self.listed.take() {
                    let before = self.known.len();
                    self.known.retain(|name, _| listed.contains(name));
                    self.has_news |= self.known.len() != before;
                }
            }
            Event::Delete(object) => {
                self.has_news |= self.known.remove(&object.name_any()).is_some();
            }
        }
    }

    fn put(&mut self, object: &DynamicObject) {
        let name = object.name_any();
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
        let created = object.creation_timestamp().as_ref().map_or(Moment(0), observe::moment);
        match parse(object) {
            Ok(tenant) => {
                let entry = (created, tenant);
                if self.known.get(&name) != Some(&entry) {
                    self.known.insert(name, entry);
                    self.has_news = true;
                }
            }
            Err(words) => {
                tracing::error!(tenant = name, "its keys are not accepted: {words}");
                self.has_news |= self.known.remove(&name).is_some();
            }
        }
    }

    /// Whether every tenant has been seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether something has changed since this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Every tenant, by name. A key that two have is the older one's.
    pub(super) fn all(&self) -> Vec<Tenant> {
        let mut by_age: Vec<_> = self.known.iter().collect();
        by_age.sort_by_key(|(name, (created, _))| (*created, *name));
        let mut taken = BTreeSet::new();
        let mut tenants = Vec::new();
        for (_, (_, tenant)) in by_age {
            let mut tenant = tenant.clone();
            tenant.keys.retain(|key| {
                let is_free = taken.insert(key.sha256.as_str().to_owned());
                if !is_free {
                    let (tenant, key) = (tenant.name.to_string(), format!("{:?}", key.name));
                    tracing::error!(
                        tenant,
                        key,
                        "an older tenant has the same key; it is not accepted"
                    );
                }
                is_free
            });
            tenants.push(tenant);
        }
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        tenants
    }
}

fn parse(object: &DynamicObject) -> Result<Tenant, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    let typed: naru_api::Tenant =
        serde_json::from_value(value).map_err(|error| error.to_string())?;
    naru_api::parse_tenant(&typed).map_err(|problems| {
        let words: Vec<_> =
            problems.into_iter().map(|(path, words)| format!("{path}: {words}")).collect();
        words.join("; ")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, created: &str, keys: &[&str]) -> DynamicObject {
        let keys: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(index, digit)| json!({"name": format!("k{index}"), "sha256": digit.repeat(64)}))
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "naru.dev/v1alpha1", "kind": "Tenant",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"keys": keys},
        }))
        .unwrap()
    }

    /// All tenants, each with the first digit of each of its keys.
    #[track_caller]
    fn check(fact: &str, tenants: &mut Tenants, event: Event<DynamicObject>, expected: &str) {
        tenants.take(event);
        let words = |tenant: &Tenant| {
            let keys = tenant.keys.iter().map(|key| &key.sha256.as_str()[..1]);
            format!("{} {}", tenant.name, keys.collect::<String>())
        };
        let all: Vec<_> = tenants.all().iter().map(words).collect();
        assert_eq!(all.join(", "), expected, "{fact}");
    }

    #[test]
    fn events() {
        let tenants = &mut Tenants::default();
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        check("a list begins", tenants, Event::Init, "");
        check("with one", tenants, Event::InitApply(object("b", new, &["1", "2"])), "b 12");
        check("and ends", tenants, Event::InitDone, "b 12");
        assert!(tenants.is_complete() && tenants.take_news() && !tenants.take_news());
        check("one more", tenants, Event::Apply(object("c", new, &["3"])), "b 12, c 3");
        check("a revoked key", tenants, Event::Apply(object("b", new, &["2"])), "b 2, c 3");
        check("a key of two", tenants, Event::Apply(object("a", old, &["3"])), "a 3, b 2, c ");
        check("one that says nonsense", tenants, Event::Apply(object("b", new, &["z"])), "a 3, c ");
        check("one that is gone", tenants, Event::Delete(object("a", old, &[])), "c 3");
        tenants.take_news();
        check("the same again", tenants, Event::Apply(object("c", new, &["3"])), "c 3");
        assert!(!tenants.take_news(), "the same again is no news");
    }
}
