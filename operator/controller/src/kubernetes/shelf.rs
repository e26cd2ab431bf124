//! What was last seen of every object of one kind, filed by the deployment it belongs to.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::runtime::watcher::Event;
use naru_plan::DeploymentName;

/// Deployment first, so that what belongs to one lies together.
type Key = (DeploymentName, String);

/// The objects of one kind.
pub(super) struct Shelf<K> {
    objects: BTreeMap<Key, K>,
    owner: fn(&K) -> Option<DeploymentName>,
    /// While a list is being read: what has been on it so far.
    listed: Option<BTreeSet<Key>>,
    is_complete: bool,
}

impl<K: ResourceExt> Shelf<K> {
    /// An empty shelf; `owner` says which deployment an object belongs to.
    pub(super) fn new(owner: fn(&K) -> Option<DeploymentName>) -> Self {
        Self { objects: BTreeMap::new(), owner, listed: None, is_complete: false }
    }

    /// Takes an event; returns the deployments it is about.
    pub(super) fn take(&mut self, event: Event<K>) -> BTreeSet<DeploymentName> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                BTreeSet::new()
            }
            Event::InitApply(object) => {
                let Some(key) = self.key(&object) else { return BTreeSet::new() };
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                self.put(key, object)
            }
            Event::InitDone => {
                self.is_complete = true;
                let Some(listed) = self.listed.take() else { return BTreeSet::new() };
                let gone = self.objects.extract_if(.., |key, _| !listed.contains(key));
                gone.map(|((name, _), _)| name).collect()
            }
            Event::Apply(object) => match self.key(&object) {
                Some(key) => self.put(key, object),
                None => BTreeSet::new(),
            },
            Event::Delete(object) => {
                let Some(key) = self.key(&object) else { return BTreeSet::new() };
                self.objects.remove(&key);
                BTreeSet::from([key.0])
            }
        }
    }

    fn key(&self, object: &K) -> Option<Key> {
        Some(((self.owner)(object)?, object.name_any()))
    }

    fn put(&mut self, key: Key, mut object: K) -> BTreeSet<DeploymentName> {
        object.meta_mut().managed_fields = None; // large, and nobody's business here
        let name = key.0.clone();
        // What was written is filed from the answer, so a watch may tell of older versions after.
        let before = self.objects.get(&key).map(version);
        let is_list = self.listed.is_some(); // it may be of a cluster that was set back
        if before.is_some_and(|before| version(&object) <= before) && !is_list {
            return BTreeSet::new();
        }
        self.objects.insert(key, object);
        BTreeSet::from([name])
    }

    /// Whether everything that exists has been seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What belongs to one deployment, by name.
    pub(super) fn of<'a>(
        &'a self,
        name: &DeploymentName,
    ) -> impl Iterator<Item = &'a K> + use<'a, K> {
        let from = (name.clone(), String::new());
        let own = self.objects.range(from..);
        let name = name.clone();
        own.take_while(move |(key, _)| key.0 == name).map(|(_, object)| object)
    }

    /// One object.
    pub(super) fn get(&self, name: &DeploymentName, object: &str) -> Option<&K> {
        self.objects.get(&(name.clone(), object.to_owned()))
    }

    /// Everything.
    pub(super) fn all(&self) -> impl Iterator<Item = &K> + Clone {
        self.objects.values()
    }
}

/// Versions of one kind are numbers that grow (Kubernetes, KEP-5504).
fn version<K: ResourceExt>(object: &K) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::ObjectMeta;

    use super::super::labels::{self, DEPLOYMENT};
    use super::*;

    fn pod(owner: &str, name: &str, version: &str) -> Pod {
        let labels = [(DEPLOYMENT.to_owned(), owner.to_owned())];
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            resource_version: Some(version.into()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        };
        Pod { metadata, ..Pod::default() }
    }

    /// The deployments an event is about, and all pods afterwards.
    #[track_caller]
    fn check(fact: &str, shelf: &mut Shelf<Pod>, event: Event<Pod>, about: &str, after: &str) {
        let names: Vec<_> = shelf.take(event).iter().map(|name| name.name().to_owned()).collect();
        let all: Vec<_> = shelf.all().map(ResourceExt::name_any).collect();
        assert_eq!((names.join(" "), all.join(" ")), (about.into(), after.into()), "{fact}");
    }

    #[test]
    fn events() {
        let mut shelf = Shelf::new(labels::deployment_of::<Pod>);
        let shelf = &mut shelf;
        check("a list begins", shelf, Event::Init, "", "");
        check("and goes on", shelf, Event::InitApply(pod("b", "b-0", "1")), "b", "b-0");
        assert!(!shelf.is_complete());
        check("and ends", shelf, Event::InitDone, "", "b-0");
        assert!(shelf.is_complete());
        check("one more", shelf, Event::Apply(pod("a", "a-0", "2")), "a", "a-0 b-0");
        check("the same again", shelf, Event::Apply(pod("a", "a-0", "2")), "", "a-0 b-0");
        check("another version", shelf, Event::Apply(pod("a", "a-0", "3")), "a", "a-0 b-0");
        check("an older version", shelf, Event::Apply(pod("a", "a-0", "2")), "", "a-0 b-0");
        check("one fewer", shelf, Event::Delete(pod("a", "a-0", "4")), "a", "b-0");
        check("one without owner", shelf, Event::Apply(Pod::default()), "", "b-0");
        check("a list again", shelf, Event::Init, "", "b-0");
        check("with another", shelf, Event::InitApply(pod("c", "c-0", "5")), "c", "b-0 c-0");
        check("tells what is gone", shelf, Event::InitDone, "b", "c-0");
        let own: Vec<_> = shelf.of(&DeploymentName::parse("ns", "c").unwrap()).collect();
        assert_eq!(own.len(), 1, "what belongs to one lies together");
    }
}
