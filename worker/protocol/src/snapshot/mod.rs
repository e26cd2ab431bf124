//! Which models exist, where they answer, and who may use them: all that a gateway works by.
//!
//! ```text
//! loop ──► Snapshot ──► wire (protobuf) ──► gateway ──► check ──► routes by it, keeps it on disk
//! ```

mod check;
mod key;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use check::InvalidSnapshot;
pub use key::{InvalidDigest, KeyDigest};

/// Orders snapshots: a later leader's always beats an earlier leader's.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SnapshotVersion {
    /// Counts leaders.
    pub epoch: u64,
    /// Counts snapshots of one leader; 0: it has published none yet.
    pub sequence: u64,
}

/// Every model, endpoint and tenant at one moment; always whole, never a difference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// A gateway refuses a snapshot that is older than the one it has.
    pub version: SnapshotVersion,
    /// By served name; several names may point at equal endpoints.
    pub models: BTreeMap<String, ModelEndpoints>,
    /// Everybody who has keys, no name twice.
    pub tenants: Vec<TenantKeys>,
}

/// Where one model answers, and whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelEndpoints {
    /// Namespace and name of the model deployment, `namespace/name`.
    pub deployment: String,
    /// Unix seconds at which the deployment was created, for `/v1/models`.
    pub created_unix_seconds: u64,
    /// Who may use it.
    pub access: Access,
    /// A replica will come if requests wait for one: it is wished, or scaling brings it.
    pub wakes: bool,
    /// Replicas, ready or not; empty while the model sleeps.
    pub endpoints: Vec<Endpoint>,
}

/// Who may use a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Everybody who may use the gateway at all.
    #[default]
    All,
    /// These tenants.
    Only(BTreeSet<String>),
}

impl Access {
    /// Whether `tenant` is among them; `None`: somebody without a key, where none is needed.
    #[must_use]
    pub fn allows(&self, tenant: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Only(tenants) => tenant.is_some_and(|tenant| tenants.contains(tenant)),
        }
    }
}

/// Member 0 of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of the replica, stable for its life.
    pub replica: String,
    /// `ip:port` of its HTTP; empty until it has one, and then it is not ready.
    pub address: String,
    /// It answers requests.
    pub ready: bool,
    /// It finishes what it has and takes nothing new.
    pub draining: bool,
}

/// One tenant: by which keys it is known, and how much at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantKeys {
    /// Name of the tenant.
    pub name: String,
    /// Its keys.
    pub keys: Vec<TenantKey>,
    /// Requests it may have in progress at one gateway; `None`: as many as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests_max: Option<u32>,
}

/// One key of a tenant, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantKey {
    /// Which of its keys, for people.
    pub name: String,
    /// SHA-256 of the whole text of the key.
    pub sha256: KeyDigest,
    /// Unix seconds from which on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_seconds: Option<u64>,
}
