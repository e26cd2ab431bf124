//! `Tenant`: a partner with keys and a quota.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use k8s_openapi::jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use naru_plan::{KeyName, Sha256, TenantKey, TenantName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Finding, Findings};

/// A moment as RFC 3339 writes it, in whole seconds.
const RFC_3339: &str = concat!(
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}",
    r"(Z|[+-][0-9]{2}:[0-9]{2})$"
);

/// What a partner may use, and the keys that prove a request to be its own.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "naru.dev",
    version = "v1alpha1",
    kind = "Tenant",
    doc = "A partner with keys and a quota. As soon as there is one, every request needs a key.",
    category = "naru",
    derive = "PartialEq",
    validation = (
        "self.metadata.name.size() <= 63 && \
         self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS label of at most 63 characters: metrics and logs carry it"
    ),
    printcolumn(
        name = "Concurrent",
        type_ = "integer",
        description = "Requests that may be in progress together",
        json_path = ".spec.quota.concurrentRequests"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// The keys of its programs, as hashes; `naru key create` makes one. Several at a time let a
    /// key be exchanged without a gap; a key that is taken out is refused within a second.
    /// Default: none, every request of it is refused.
    #[x_kube(
        validation = (
            "self.all(key, self.exists_one(other, other.name == key.name))",
            "the same name is listed twice"
        ),
        validation = (
            "self.all(key, self.exists_one(other, other.sha256 == key.sha256))",
            "the same key is listed twice"
        )
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub keys: Vec<Key>,
    /// How much it may ask for.
    #[serde(default)]
    pub quota: Quota,
}

/// One key, as much as may be known of it.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// By which people tell it from others; logs and metrics name it. A DNS label.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// SHA-256 of the whole text of the key, 64 lower-case hexadecimal digits. The key itself is
    /// nowhere: who has lost it makes another.
    #[schemars(length(max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// When it stops to be accepted, as a time with seconds and zone (2027-01-01T00:00:00Z).
    /// Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        regex(pattern = RFC_3339),
        extend("format" = "date-time")
    )]
    pub expires: Option<String>,
}

/// How much a tenant may ask for.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Quota {
    /// Requests that may be in progress together at each gateway; one more is answered 429 with
    /// `Retry-After`. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrent_requests: Option<u32>,
}

/// Parses a tenant that passed schema and rules.
///
/// Errors: every field that still has no meaning, as path and words.
pub fn parse_tenant(tenant: &Tenant) -> Result<naru_plan::Tenant, Vec<(String, String)>> {
    parse_tenant_fields(tenant).map_err(Finding::into_pairs)
}

pub(crate) fn parse_tenant_fields(tenant: &Tenant) -> Result<naru_plan::Tenant, Vec<Finding>> {
    let mut findings = Findings::default();
    let name = tenant.metadata.name.as_deref().unwrap_or_default();
    let name = findings.keep(TenantName::parse(name), "metadata.name");
    let mut keys = Vec::new();
    for (index, key) in tenant.spec.keys.iter().enumerate() {
        keys.extend(parse_key(key, &format!("spec.keys[{index}]"), &mut findings));
    }
    findings.or(name.map(|name| naru_plan::Tenant {
        name,
        labels: tenant.metadata.labels.clone().unwrap_or_default(),
        keys,
        concurrent_requests_max: tenant.spec.quota.concurrent_requests,
    }))
}

fn parse_key(key: &Key, path: &str, findings: &mut Findings) -> Option<TenantKey> {
    let name = findings.keep(KeyName::parse(&key.name), &format!("{path}.name"));
    let sha256 = findings.keep(Sha256::parse(&key.sha256), &format!("{path}.sha256"));
    let expires = key.expires.as_deref().map(str::parse::<Timestamp>).transpose();
    let expires = findings.keep(expires, &format!("{path}.expires"))?;
    // What expired before 1970 has expired.
    let seconds = |time: Timestamp| u64::try_from(time.as_second()).unwrap_or(0);
    let expires_unix_seconds = expires.map(seconds);
    Some(TenantKey { name: name?, sha256: sha256?, expires_unix_seconds })
}
