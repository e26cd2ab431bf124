//! What every other object says, as far as one object can conflict with it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use naru_api::{ModelDeployment, Parallelism, PowerBudget, Tenant, parse_power_budget};
use naru_protocol::worker::v1::Splits;

use crate::certificates::Namespaces;
use crate::models::KnownModels;

/// Owners of what belongs to a namespace's deployments together: two, so that it stays when one of
/// them goes.
const OWNERS: usize = 2;

/// Namespace and name of a model deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Into how many ranks a model is to be cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) uri: String,
    pub(super) tensor: u32,
    pub(super) pipeline: u32,
}

/// One object, as far as it can conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    /// A model deployment.
    Deployment {
        /// Where it is.
        key: Key,
        /// What it is called by requests.
        names: Vec<String>,
        /// The power budget it draws from.
        budget: Option<String>,
        /// Which model it cuts, and how.
        cut: Cut,
    },
    /// A tenant and the hashes of its keys.
    Tenant {
        /// Its name.
        name: String,
        /// Hashes, in the order of `spec.keys`.
        keys: Vec<String>,
    },
    /// A power budget.
    Budget {
        /// Its name.
        name: String,
        /// What it is a part of.
        parent: Option<String>,
        /// What has no meaning in it, as path and words.
        meaningless: Vec<(String, String)>,
    },
}

/// Every object, as far as others can conflict with it.
#[derive(Debug, Default)]
pub(super) struct Facts {
    deployments: BTreeMap<Key, Known>,
    tenants: BTreeMap<String, BTreeSet<String>>,
    budgets: BTreeMap<String, Option<String>>,
    models: KnownModels,
}

#[derive(Debug)]
struct Known {
    names: Vec<String>,
    owner: Option<OwnerReference>,
}

/// What has facts in it.
pub(super) trait Stated {
    /// What others can conflict with.
    fn fact(&self) -> Fact;
    /// By which it owns others; `None` for what owns none.
    fn owner(&self) -> Option<OwnerReference> {
        None
    }
}

impl Stated for ModelDeployment {
    fn fact(&self) -> Fact {
        let key = Key { namespace: self.namespace().unwrap_or_default(), name: self.name_any() };
        let mut names = self.spec.model.names.clone().unwrap_or_default();
        if names.is_empty() {
            names.push(key.name.clone());
        }
        let budget = self.spec.power.as_ref().map(|power| power.budget.clone());
        let parallelism = self.spec.parallelism.clone().unwrap_or_default();
        let Parallelism { tensor, pipeline, .. } = parallelism;
        let cut = Cut { uri: self.spec.model.uri.clone(), tensor, pipeline };
        Fact::Deployment { key, names, budget, cut }
    }

    fn owner(&self) -> Option<OwnerReference> {
        let is_going = self.metadata.deletion_timestamp.is_some();
        let owner = self.owner_ref(&()).filter(|_| !is_going)?;
        Some(OwnerReference { controller: None, block_owner_deletion: None, ..owner })
    }
}

impl Stated for Tenant {
    fn fact(&self) -> Fact {
        let keys = self.spec.keys.iter().map(|key| key.sha256.clone()).collect();
        Fact::Tenant { name: self.name_any(), keys }
    }
}

impl Stated for PowerBudget {
    fn fact(&self) -> Fact {
        let (name, parent) = (self.name_any(), self.spec.parent.clone());
        let meaningless = parse_power_budget(self).err().unwrap_or_default();
        Fact::Budget { name, parent, meaningless }
    }
}

impl Facts {
    /// None but what is known of models.
    pub(super) fn beside(models: KnownModels) -> Self {
        Self { models, ..Self::default() }
    }

    /// Notes what an object says now. Returns whether [`Facts::namespaces`] may have changed.
    pub(super) fn put(&mut self, fact: Fact, owner: Option<OwnerReference>) -> bool {
        match fact {
            Fact::Deployment { key, names, .. } => {
                let known = Known { names, owner: owner.clone() };
                let before = self.deployments.insert(key, known);
                before.is_none_or(|before| before.owner != owner)
            }
            Fact::Tenant { name, keys } => {
                self.tenants.insert(name, keys.into_iter().collect());
                false
            }
            Fact::Budget { name, parent, .. } => {
                self.budgets.insert(name, parent);
                false
            }
        }
    }

    /// Forgets an object.
    pub(super) fn remove(&mut self, fact: &Fact) {
        match fact {
            Fact::Deployment { key, .. } => drop(self.deployments.remove(key)),
            Fact::Tenant { name, .. } => drop(self.tenants.remove(name)),
            Fact::Budget { name, .. } => drop(self.budgets.remove(name)),
        }
    }

    /// The deployment, other than `not`, that is called `name`.
    pub(super) fn served_by(&self, name: &str, not: &Key) -> Option<&Key> {
        let has = |known: &Known| known.names.iter().any(|known| known == name);
        self.deployments.iter().find(|(key, known)| *key != not && has(known)).map(|(key, _)| key)
    }

    /// How a model can be cut, if a worker has told this operator.
    pub(super) fn splits(&self, uri: &str) -> Option<Splits> {
        self.models.splits(uri)
    }

    /// The tenant, other than `not`, that has this key.
    pub(super) fn tenant_with(&self, sha256: &str, not: &str) -> Option<&str> {
        let mut tenants = self.tenants.iter();
        tenants.find(|(name, keys)| *name != not && keys.contains(sha256)).map(|(name, _)| &**name)
    }

    /// What a budget is part of. `None`: there is no such budget.
    pub(super) fn parent(&self, budget: &str) -> Option<Option<&str>> {
        self.budgets.get(budget).map(Option::as_deref)
    }

    /// How many budgets there are.
    pub(super) fn budgets(&self) -> usize {
        self.budgets.len()
    }

    /// The namespaces that have deployments.
    pub(super) fn namespaces(&self) -> Namespaces {
        let mut namespaces = Namespaces::new();
        for (key, known) in &self.deployments {
            let owners = namespaces.entry(key.namespace.clone()).or_default();
            if owners.len() < OWNERS {
                owners.extend(known.owner.clone());
            }
        }
        // Where every deployment is going, nobody needs a certificate made.
        namespaces.retain(|_, owners| !owners.is_empty());
        namespaces
    }
}
