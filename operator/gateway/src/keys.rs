//! Whose request it is: the key it carries, and what its tenant may use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, header};
use naru_protocol::openai::ApiError;
use naru_protocol::{KeyDigest, ModelEndpoints, Snapshot};

/// Who needs a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRule {
    /// Everybody, from the first tenant on: nobody else can connect than this machine.
    OnceTenantsExist,
    /// Everybody.
    Always,
}

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `None`: nobody's in particular, where no key is needed.
    tenant: Option<Tenant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tenant {
    name: String,
    concurrent_requests_max: Option<u32>,
}

impl Caller {
    /// The tenant's name.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.tenant.as_ref().map(|tenant| tenant.name.as_str())
    }

    /// The tenant's name for logs and labels, "" without one.
    pub(crate) fn label(&self) -> &str {
        self.tenant().unwrap_or_default()
    }

    pub(crate) fn concurrent_requests_max(&self) -> Option<u32> {
        self.tenant.as_ref().and_then(|tenant| tenant.concurrent_requests_max)
    }

    pub(crate) fn may_use(&self, model: &ModelEndpoints) -> bool {
        model.access.allows(self.tenant())
    }
}

/// Knows the keys of the newest snapshot that it was asked about.
pub(crate) struct Keyring {
    rule: KeyRule,
    index: Mutex<Arc<Index>>,
}

/// The keys of one snapshot, to be found by digest.
#[derive(Default)]
struct Index {
    snapshot: Arc<Snapshot>,
    /// `None`: two tenants claim the key, so it is nobody's.
    owners: HashMap<KeyDigest, Option<Owner>>,
}

#[derive(Clone, Copy)]
struct Owner {
    tenant: usize,
    expires_unix_seconds: Option<u64>,
}

impl Keyring {
    pub(crate) fn new(rule: KeyRule) -> Self {
        Self { rule, index: Mutex::default() }
    }

    /// Whose request this is, as the snapshot says.
    ///
    /// Errors: 401 without a key, with one that nobody has, or with one that has expired.
    pub(crate) fn caller(
        &self,
        snapshot: &Arc<Snapshot>,
        headers: &HeaderMap,
    ) -> Result<Caller, ApiError> {
        if self.rule == KeyRule::OnceTenantsExist && snapshot.tenants.is_empty() {
            return Ok(Caller { tenant: None });
        }
        let key = bearer(headers).ok_or_else(ApiError::invalid_api_key)?;
        let index = self.index(snapshot);
        // Only digests are compared: how long that takes tells nothing about any key.
        let owner = index.owners.get(&KeyDigest::of(key)).copied().flatten();
        let owner = owner.ok_or_else(ApiError::invalid_api_key)?;
        if owner.expires_unix_seconds.is_some_and(|expires| expires <= unix_seconds()) {
            return Err(ApiError::expired_api_key());
        }
        let tenant = &snapshot.tenants[owner.tenant];
        let (name, concurrent_requests_max) = (tenant.name.clone(), tenant.concurrent_requests_max);
        Ok(Caller { tenant: Some(Tenant { name, concurrent_requests_max }) })
    }

    /// Whose request this is, if they may use `model`.
    ///
    /// Errors: 401 as for [`Self::caller`], 404 when there is no such model, 403 when it is not for
    /// them.
    pub(crate) fn admit(
        &self,
        snapshot: &Arc<Snapshot>,
        headers: &HeaderMap,
        model: &str,
    ) -> Result<Caller, ApiError> {
        let caller = self.caller(snapshot, headers)?;
        let entry = snapshot.models.get(model).ok_or_else(|| ApiError::model_not_found(model))?;
        if caller.may_use(entry) {
            return Ok(caller);
        }
        let who = caller.tenant().map(|tenant| format!("tenant `{tenant}`"));
        let who = who.unwrap_or_else(|| "without a key you".to_owned());
        Err(ApiError::forbidden(format!("{who} may not use the model `{model}`")))
    }

    /// The index of this very snapshot; made once for each.
    fn index(&self, snapshot: &Arc<Snapshot>) -> Arc<Index> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&index.snapshot, snapshot) {
            *index = Arc::new(Index::of(snapshot.clone()));
        }
        index.clone()
    }
}

impl Index {
    fn of(snapshot: Arc<Snapshot>) -> Self {
        let mut owners = HashMap::new();
        for (tenant, keys) in snapshot.tenants.iter().enumerate() {
            for key in &keys.keys {
                let owner = Owner { tenant, expires_unix_seconds: key.expires_unix_seconds };
                let before = owners.insert(key.sha256, Some(owner));
                if let Some(before) = before {
                    let both = before.and_then(|before| before.and(owner));
                    if both.is_none() {
                        let (tenant, key) = (&keys.name, &key.name);
                        tracing::error!(tenant, key, "two tenants have this key: it is refused");
                    }
                    owners.insert(key.sha256, both);
                }
            }
        }
        Self { snapshot, owners }
    }
}

impl Owner {
    /// A key that is listed twice: until the earlier of its days, and nobody's when it is listed
    /// for two tenants.
    fn and(self, other: Self) -> Option<Self> {
        let expiries = [self.expires_unix_seconds, other.expires_unix_seconds];
        let expires_unix_seconds = expiries.into_iter().flatten().min();
        (self.tenant == other.tenant).then_some(Self { expires_unix_seconds, ..self })
    }
}

/// The key of `Authorization: Bearer KEY`, when there is exactly one such header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    let key = key.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

fn unix_seconds() -> u64 {
    // A clock before 1970 is no reason to accept a key that has expired.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use naru_protocol::{TenantKey, TenantKeys};

    use super::*;

    fn tenant(name: &str, keys: &[(&str, Option<u64>)]) -> TenantKeys {
        let key = |&(text, expires_unix_seconds): &(&str, Option<u64>)| TenantKey {
            name: "k".into(),
            sha256: KeyDigest::of(text),
            expires_unix_seconds,
        };
        let keys = keys.iter().map(key).collect();
        TenantKeys { name: name.into(), keys, concurrent_requests_max: None }
    }

    fn headers(values: &[&'static str]) -> HeaderMap {
        let value =
            |value: &&'static str| (header::AUTHORIZATION, http::HeaderValue::from_static(value));
        values.iter().map(value).collect()
    }

    #[track_caller]
    fn check(fact: &str, rule: KeyRule, tenants: &[TenantKeys], sent: &[&'static str], is: &str) {
        let snapshot = Arc::new(Snapshot { tenants: tenants.to_vec(), ..Snapshot::default() });
        let caller = Keyring::new(rule).caller(&snapshot, &headers(sent));
        let found = match &caller {
            Ok(caller) => caller.tenant().unwrap_or("anybody"),
            Err(error) => {
                assert_eq!(error.status, 401, "{fact}");
                if error.body.message.contains("expired") { "expired" } else { "refused" }
            }
        };
        assert_eq!(found, is, "{fact}");
    }

    #[test]
    fn callers() {
        use KeyRule::{Always, OnceTenantsExist};
        let far = Some(u64::MAX);
        let two =
            [tenant("saudi", &[("s", far), ("old", Some(1))]), tenant("bank", &[("b", None)])];
        check("no tenant, this machine", OnceTenantsExist, &[], &[], "anybody");
        check("no tenant, this machine, some key", OnceTenantsExist, &[], &["Bearer x"], "anybody");
        check("no tenant, other machines", Always, &[], &["Bearer x"], "refused");
        check("a key of the first", OnceTenantsExist, &two, &["Bearer s"], "saudi");
        check("a key of the second", Always, &two, &["bearer  b "], "bank");
        check("an expired key", Always, &two, &["Bearer old"], "expired");
        check("no key", OnceTenantsExist, &two, &[], "refused");
        check("nobody's key", Always, &two, &["Bearer x"], "refused");
        check("a digest is no key", Always, &two, &["Bearer "], "refused");
        check("another scheme", Always, &two, &["Basic s"], "refused");
        check("two headers", Always, &two, &["Bearer s", "Bearer s"], "refused");
        let shared = [tenant("a", &[("k", None)]), tenant("b", &[("k", None)])];
        check("a key of two tenants is nobody's", Always, &shared, &["Bearer k"], "refused");
        let twice = [tenant("a", &[("k", None), ("k", Some(1))])];
        check("a key listed twice, once expired", Always, &twice, &["Bearer k"], "expired");
    }

    #[test]
    fn a_newer_snapshot_is_asked_at_once() {
        let keyring = Keyring::new(KeyRule::Always);
        let has = |keys: &[(&str, Option<u64>)]| {
            Arc::new(Snapshot { tenants: vec![tenant("a", keys)], ..Snapshot::default() })
        };
        let (before, after) = (has(&[("k", None)]), has(&[]));
        assert!(keyring.caller(&before, &headers(&["Bearer k"])).is_ok());
        assert!(keyring.caller(&after, &headers(&["Bearer k"])).is_err());
    }
}
