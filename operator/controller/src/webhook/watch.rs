//! Keeps the facts as the cluster has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use futures::StreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher::Error};
use kube::{Api, Client, Resource, ResourceExt};
use naru_api::{ModelDeployment, PowerBudget, Tenant};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::facts::{Fact, Facts, Stated};
use crate::certificates::Namespaces;
use crate::models::KnownModels;

/// Kinds that are watched.
const KINDS: usize = 3;

/// The facts, shared by those who watch and those who answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    facts: RwLock<Facts>,
    kinds_listed: AtomicUsize,
}

impl Shared {
    /// None yet, but what is known of models.
    pub(super) fn beside(models: KnownModels) -> Self {
        let facts = RwLock::new(Facts::beside(models));
        Self(Arc::new(Inner { facts, kinds_listed: AtomicUsize::new(0) }))
    }

    /// The facts. `None`: some have not been seen yet.
    pub(super) fn read(&self) -> Option<RwLockReadGuard<'_, Facts>> {
        let is_complete = self.0.kinds_listed.load(Ordering::Acquire) >= KINDS;
        is_complete.then(|| self.0.facts.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        change(&mut self.0.facts.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches everything that can conflict; tells the namespaces that have deployments. Never returns.
pub(super) async fn watch(client: Client, facts: Shared, namespaces: watch::Sender<Namespaces>) {
    let publish = |facts: &Facts| {
        let found = facts.namespaces();
        namespaces.send_if_modified(|known| {
            let is_news = *known != found;
            *known = found;
            is_news
        });
    };
    let nothing = |_: &Facts| {};
    tokio::join!(
        follow::<ModelDeployment>(Api::all(client.clone()), &facts, publish),
        follow::<Tenant>(Api::all(client.clone()), &facts, nothing),
        follow::<PowerBudget>(Api::all(client), &facts, nothing),
    );
}

async fn follow<K>(api: Api<K>, facts: &Shared, changed: impl Fn(&Facts))
where
    K: Resource<DynamicType = ()> + Stated + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watcher(api, Config::default()).default_backoff());
    let mut known = Kind::<K>::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => known.take(event, facts, &changed),
            Err(error) => complain::<K>(&error),
        }
    }
}

fn complain<K: Resource<DynamicType = ()>>(error: &Error) {
    tracing::warn!(kind = %K::kind(&()), error = crate::certificates::story(error), "watching");
}

/// Objects of one kind.
struct Kind<K> {
    known: BTreeMap<String, Fact>,
    /// While a list is being read: what has been on it so far.
    listed: Option<BTreeSet<String>>,
    is_complete: bool,
    kind: std::marker::PhantomData<fn(K)>,
}

impl<K> Default for Kind<K> {
    fn default() -> Self {
        let kind = std::marker::PhantomData;
        Self { known: BTreeMap::new(), listed: None, is_complete: false, kind }
    }
}

impl<K: Stated + ResourceExt> Kind<K> {
    fn take(&mut self, event: Event<K>, facts: &Shared, changed: &impl Fn(&Facts)) {
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(id(&object));
                }
                self.put(&object, facts);
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                for (_, gone) in self.known.extract_if(.., |id, _| !listed.contains(id)) {
                    facts.write(|facts| facts.remove(&gone));
                }
                facts.write(|facts| changed(facts));
                if !self.is_complete {
                    self.is_complete = true;
                    facts.0.kinds_listed.fetch_add(1, Ordering::Release);
                }
            }
            Event::Apply(object) => {
                if self.put(&object, facts) {
                    facts.write(|facts| changed(facts));
                }
            }
            Event::Delete(object) => {
                if let Some(gone) = self.known.remove(&id(&object)) {
                    facts.write(|facts| facts.remove(&gone));
                    facts.write(|facts| changed(facts));
                }
            }
        }
    }

    /// Whether it matters to the namespaces.
    fn put(&mut self, object: &K, facts: &Shared) -> bool {
        let fact = object.fact();
        self.known.insert(id(object), fact.clone());
        facts.write(|facts| facts.put(fact, object.owner()))
    }
}

fn id<K: ResourceExt>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(namespace: &str, name: &str) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "naru.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}")},
            "spec": {"model": {"uri": "file:///m.gguf"}, "backend": "cpu"},
        }))
        .unwrap()
    }

    fn going(mut deployment: ModelDeployment) -> ModelDeployment {
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        deployment.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        deployment
    }

    #[test]
    fn namespaces_follow_the_deployments() {
        let (facts, mut kind) = (Shared::default(), Kind::<ModelDeployment>::default());
        let mut check = |fact: &str, event: Event<ModelDeployment>, expected: &str| {
            kind.take(event, &facts, &|_| {});
            let namespaces = facts.write(|facts| facts.namespaces());
            let owners = namespaces.iter().map(|(namespace, owners)| {
                let names: Vec<_> = owners.iter().map(|owner| owner.name.as_str()).collect();
                format!("{namespace}: {}", names.join(" "))
            });
            assert_eq!(owners.collect::<Vec<_>>().join(", "), expected, "{fact}");
        };
        check("a list begins", Event::Init, "");
        check("with one", Event::InitApply(deployment("x", "a")), "x: a");
        check("ends", Event::InitDone, "x: a");
        check("one more", Event::Apply(deployment("x", "b")), "x: a b");
        check("a third owns nothing", Event::Apply(deployment("x", "c")), "x: a b");
        check("elsewhere", Event::Apply(deployment("y", "d")), "x: a b, y: d");
        check("one goes", Event::Apply(going(deployment("x", "a"))), "x: b c, y: d");
        check("and is gone", Event::Delete(deployment("x", "a")), "x: b c, y: d");
        check("the last of one goes", Event::Apply(going(deployment("y", "d"))), "x: b c");
        check("a new list", Event::Init, "x: b c");
        check("has one", Event::InitApply(deployment("x", "c")), "x: b c");
        check("and no other", Event::InitDone, "x: c");
    }

    #[test]
    fn facts_are_read_once_every_kind_was_listed() {
        let facts = Shared::default();
        let mut deployments = Kind::<ModelDeployment>::default();
        deployments.take(Event::InitDone, &facts, &|_| {});
        deployments.take(Event::InitDone, &facts, &|_| {});
        assert!(facts.read().is_none());
        Kind::<Tenant>::default().take(Event::InitDone, &facts, &|_| {});
        Kind::<PowerBudget>::default().take(Event::InitDone, &facts, &|_| {});
        assert!(facts.read().is_some());
    }
}
