//! Everybody who has keys, as seen last.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use naru_plan::{Moment, Tenant};

use super::observe;
use super::roster::{self, Roster};

/// The tenants of the cluster, each with when it was created.
#[derive(Default)]
pub(super) struct Tenants(Roster<(Moment, Tenant)>);

impl Tenants {
    /// Takes what the watch told.
    pub(super) fn take(&mut self, event: Event<DynamicObject>) {
        self.0.take(event, read, PartialEq::eq);
    }

    /// Whether every tenant has been seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.0.is_complete()
    }

    /// Whether something has changed since this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        self.0.take_news()
    }

    /// Every tenant, by name. A key that two have is the older one's.
    pub(super) fn all(&self) -> Vec<Tenant> {
        let mut by_age: Vec<_> = self.0.all().collect();
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

/// A tenant whose keys mean nothing has none.
fn read(object: &DynamicObject) -> Option<(Moment, Tenant)> {
    let created = object.creation_timestamp().as_ref().map_or(Moment(0), observe::moment);
    match roster::read(object, naru_api::parse_tenant) {
        Ok(tenant) => Some((created, tenant)),
        Err(words) => {
            tracing::error!(tenant = object.name_any(), "its keys are not accepted: {words}");
            None
        }
    }
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
