//! Into how many ranks models can be cut, as far as workers have told this process: of what one has
//! loaded, a cut that does not work is refused before it is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use naru_protocol::worker::v1::Splits;

/// What is known of models, by their URIs; shared by whoever hears of them and whoever is asked.
#[derive(Clone, Debug, Default)]
pub struct KnownModels(Arc<RwLock<BTreeMap<String, Splits>>>);

impl KnownModels {
    /// How a model can be cut, if anybody has told.
    pub(crate) fn splits(&self, uri: &str) -> Option<Splits> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(uri).cloned()
    }

    /// Notes what a worker told.
    pub(crate) fn note(&self, uri: &str, splits: &Splits) {
        if self.splits(uri).as_ref() != Some(splits) {
            let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(uri.to_owned(), splits.clone());
        }
    }

    /// Forgets models that nobody wishes any more.
    pub(crate) fn keep(&self, uris: &BTreeSet<&str>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|uri, _| uris.contains(uri.as_str()));
    }
}
