//! Which models exist and where they answer: the whole of what a gateway routes by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Orders snapshots: a later leader's always beats an earlier leader's.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SnapshotVersion {
    /// Counts leaders.
    pub epoch: u64,
    /// Counts snapshots of one leader.
    pub sequence: u64,
}

/// Every model and every endpoint at one moment; always whole, never a difference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// A gateway refuses a snapshot that is older than the one it has.
    pub version: SnapshotVersion,
    /// By served name; several names may point at equal endpoints.
    pub models: BTreeMap<String, ModelEndpoints>,
}

/// Where one model answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelEndpoints {
    /// Namespace and name of the model deployment, `namespace/name`.
    pub deployment: String,
    /// Unix seconds at which the deployment was created, for `/v1/models`.
    pub created_unix_seconds: u64,
    /// Replicas, ready or not; empty while the model sleeps.
    pub endpoints: Vec<Endpoint>,
}

/// Member 0 of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of the replica, stable for its life.
    pub replica: String,
    /// `host:port` of its HTTP.
    pub address: String,
    /// It answers requests.
    pub ready: bool,
    /// It finishes what it has and takes nothing new.
    pub draining: bool,
}
