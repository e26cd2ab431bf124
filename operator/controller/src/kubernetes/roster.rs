//! What was last seen of the objects of one kind that belong to no deployment, by name; and how
//! any object is read.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;

/// What the objects of one kind come to.
pub(super) struct Roster<V> {
    known: BTreeMap<String, V>,
    /// While a list is being read: who has been on it so far.
    listed: Option<BTreeSet<String>>,
    is_complete: bool,
    has_news: bool,
}

impl<V> Default for Roster<V> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), listed: None, is_complete: false, has_news: false }
    }
}

impl<V> Roster<V> {
    /// Takes what the watch told. `read` says what an object comes to, if to anything; `is_same`
    /// whether that is no news.
    pub(super) fn take(
        &mut self,
        event: Event<DynamicObject>,
        read: impl Fn(&DynamicObject) -> Option<V>,
        is_same: impl Fn(&V, &V) -> bool,
    ) {
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(object) | Event::Apply(object) => {
                let name = object.name_any();
                if let Some(listed) = &mut self.listed {
                    listed.insert(name.clone());
                }
                let before = self.known.remove(&name);
                let now = read(&object);
                self.has_news |= match (&before, &now) {
                    (Some(before), Some(now)) => !is_same(before, now),
                    (before, now) => before.is_some() || now.is_some(),
                };
                self.known.extend(now.map(|now| (name, now)));
            }
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

    /// Whether every object has been seen once.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether something has changed since this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Everything, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&String, &V)> {
        self.known.iter()
    }
}

/// Fields, and what is wrong with them.
type Problems = Vec<(String, String)>;

/// Reads an object by `parse`. Whatever is in it, the answer is words, never a panic.
pub(super) fn read<K: DeserializeOwned, T>(
    object: &DynamicObject,
    parse: fn(&K) -> Result<T, Problems>,
) -> Result<T, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    let typed: K = serde_json::from_value(value).map_err(|error| error.to_string())?;
    parse(&typed).map_err(|problems| {
        let words: Vec<_> =
            problems.into_iter().map(|(path, words)| format!("{path}: {words}")).collect();
        words.join("; ")
    })
}
