//! Snapshots as protobuf messages, there and back.

use super::check::no;
use super::{
    Access, Endpoint, InvalidSnapshot, KeyDigest, ModelEndpoints, Snapshot, SnapshotVersion,
    TenantKey, TenantKeys,
};
use crate::control::v1;

impl From<SnapshotVersion> for v1::Version {
    fn from(version: SnapshotVersion) -> Self {
        Self { epoch: version.epoch, sequence: version.sequence }
    }
}

impl From<v1::Version> for SnapshotVersion {
    fn from(version: v1::Version) -> Self {
        Self { epoch: version.epoch, sequence: version.sequence }
    }
}

impl From<&Snapshot> for v1::Snapshot {
    fn from(snapshot: &Snapshot) -> Self {
        let model = |(name, entry): (&String, &ModelEndpoints)| (name.clone(), entry.into());
        Self {
            version: Some(snapshot.version.into()),
            models: snapshot.models.iter().map(model).collect(),
            tenants: snapshot.tenants.iter().map(v1::Tenant::from).collect(),
        }
    }
}

impl From<&ModelEndpoints> for v1::Model {
    fn from(model: &ModelEndpoints) -> Self {
        let access = match &model.access {
            Access::All => v1::Access { all: true, tenants: vec![] },
            Access::Only(tenants) => {
                v1::Access { all: false, tenants: tenants.iter().cloned().collect() }
            }
        };
        Self {
            deployment: model.deployment.clone(),
            created_unix_seconds: model.created_unix_seconds,
            endpoints: model.endpoints.iter().map(v1::Endpoint::from).collect(),
            access: Some(access),
            wakes: model.wakes,
        }
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint { replica, address, ready, draining } = endpoint.clone();
        Self { replica, address, ready, draining }
    }
}

impl From<&TenantKeys> for v1::Tenant {
    fn from(tenant: &TenantKeys) -> Self {
        let key = |key: &TenantKey| v1::Key {
            name: key.name.clone(),
            sha256: key.sha256.as_bytes().to_vec(),
            expires_unix_seconds: key.expires_unix_seconds,
        };
        Self {
            name: tenant.name.clone(),
            keys: tenant.keys.iter().map(key).collect(),
            concurrent_requests_max: tenant.concurrent_requests_max,
        }
    }
}

/// Errors: what no honest operator says, see [`Snapshot::check`].
impl TryFrom<v1::Snapshot> for Snapshot {
    type Error = InvalidSnapshot;

    fn try_from(message: v1::Snapshot) -> Result<Self, InvalidSnapshot> {
        let version = message.version.ok_or(InvalidSnapshot::Missing("version"))?.into();
        let model = |(name, model)| Ok((name, ModelEndpoints::try_from(model)?));
        let snapshot = Self {
            version,
            models: message
                .models
                .into_iter()
                .map(model)
                .collect::<Result<_, InvalidSnapshot>>()?,
            tenants: message.tenants.into_iter().map(tenant).collect::<Result<_, _>>()?,
        };
        snapshot.check()?;
        Ok(snapshot)
    }
}

impl TryFrom<v1::Model> for ModelEndpoints {
    type Error = InvalidSnapshot;

    fn try_from(model: v1::Model) -> Result<Self, InvalidSnapshot> {
        let access = match model.access.ok_or(InvalidSnapshot::Missing("access of a model"))? {
            v1::Access { all: true, tenants } if tenants.is_empty() => Access::All,
            v1::Access { all: true, .. } => {
                return Err(no("access", "everybody and a list of tenants"));
            }
            v1::Access { all: false, tenants } => Access::Only(tenants.into_iter().collect()),
        };
        let endpoint = |endpoint: v1::Endpoint| {
            let v1::Endpoint { replica, address, ready, draining } = endpoint;
            Endpoint { replica, address, ready, draining }
        };
        Ok(Self {
            deployment: model.deployment,
            created_unix_seconds: model.created_unix_seconds,
            access,
            wakes: model.wakes,
            endpoints: model.endpoints.into_iter().map(endpoint).collect(),
        })
    }
}

fn tenant(tenant: v1::Tenant) -> Result<TenantKeys, InvalidSnapshot> {
    let key = |key: v1::Key| {
        let bytes = key.sha256.try_into().map_err(|_| no("sha256", "other than 32 bytes"))?;
        Ok(TenantKey {
            name: key.name,
            sha256: KeyDigest::from_bytes(bytes),
            expires_unix_seconds: key.expires_unix_seconds,
        })
    };
    Ok(TenantKeys {
        name: tenant.name,
        keys: tenant.keys.into_iter().map(key).collect::<Result<_, InvalidSnapshot>>()?,
        concurrent_requests_max: tenant.concurrent_requests_max,
    })
}
