//! Tenants: partners with keys and quotas, and which of them a model deployment answers.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{KeyName, Sha256, TenantName};

/// A partner whose requests are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// What selectors find it by.
    pub labels: BTreeMap<String, String>,
    /// The keys that prove a request to be its own.
    pub keys: Vec<TenantKey>,
    /// Requests of it that may be in progress together; `None`: any number.
    pub concurrent_requests_max: Option<u32>,
}

/// One key of a tenant, as much as may be known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantKey {
    /// By which its owner tells it from others.
    pub name: KeyName,
    /// Of the whole text of the key; the key itself is nowhere.
    pub sha256: Sha256,
    /// The Unix second from which on it is refused; `None`: never.
    pub expires_unix_seconds: Option<u64>,
}

/// Whose requests a model deployment answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Every tenant's.
    #[default]
    All,
    /// Those of the tenants with these names.
    Tenants(BTreeSet<TenantName>),
    /// Those of the tenants that have every one of these labels.
    Labels(BTreeMap<String, String>),
}

impl Access {
    /// Whether requests of `tenant` are answered.
    pub fn allows(&self, tenant: &Tenant) -> bool {
        match self {
            Self::All => true,
            Self::Tenants(names) => names.contains(&tenant.name),
            Self::Labels(labels) => {
                labels.iter().all(|(label, value)| tenant.labels.get(label) == Some(value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str, labels: &[(&str, &str)]) -> Tenant {
        Tenant {
            name: TenantName::parse(name).unwrap(),
            labels: map(labels),
            keys: vec![],
            concurrent_requests_max: None,
        }
    }

    fn map(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect()
    }

    #[track_caller]
    fn check(fact: &str, access: &Access, tenant: &Tenant, allowed: bool) {
        assert_eq!(access.allows(tenant), allowed, "{fact}");
    }

    #[test]
    fn access() {
        let saudi = tenant("saudi", &[("region", "gulf"), ("kind", "state")]);
        let bank = tenant("bank", &[("region", "gulf")]);
        check("without a word everybody is let in", &Access::All, &bank, true);
        let named = Access::Tenants([saudi.name.clone()].into());
        check("one that is named", &named, &saudi, true);
        check("one that is not", &named, &bank, false);
        let gulf = Access::Labels(map(&[("region", "gulf")]));
        check("one with the label", &gulf, &bank, true);
        let both = Access::Labels(map(&[("region", "gulf"), ("kind", "state")]));
        check("one with both labels", &both, &saudi, true);
        check("one with the other label missing", &both, &bank, false);
        let other = Access::Labels(map(&[("region", "asia")]));
        check("one with another value", &other, &bank, false);
    }
}
