//! What no honest operator says: a snapshot that breaks one of these rules is refused whole.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::{Access, ModelEndpoints, Snapshot, TenantKeys};

/// Ten times what the project is measured with.
const MODELS_MAX: usize = 100_000;
const TENANTS_MAX: usize = 100_000;
const ENDPOINTS_MAX: usize = 4096;
const KEYS_MAX: usize = 1024;
/// The longest name of an object on Kubernetes, and with its namespace.
const NAME_BYTES_MAX: usize = 253;
const DEPLOYMENT_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 1;
/// Longest name a client may ask for.
const SERVED_NAME_BYTES_MAX: usize = 128;

/// Why a snapshot was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSnapshot {
    /// More of something than there can be.
    #[error("{count} {what}: at most {max} are possible")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A text that cannot be what it is said to be.
    #[error("{text:?} is no {what}")]
    Text {
        /// What it should be.
        what: &'static str,
        /// Its first characters.
        text: String,
    },
    /// Two tenants of one name.
    #[error("tenant {0:?} is listed twice")]
    TenantTwice(String),
    /// A part that every snapshot has is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
}

impl Snapshot {
    /// Whether a gateway may work by it. Errors: the first rule that it breaks.
    pub fn check(&self) -> Result<(), InvalidSnapshot> {
        at_most("models", self.models.len(), MODELS_MAX)?;
        at_most("tenants", self.tenants.len(), TENANTS_MAX)?;
        for (name, model) in &self.models {
            text("served name", name, SERVED_NAME_BYTES_MAX)?;
            check_model(model)?;
        }
        let mut names = HashSet::new();
        for tenant in &self.tenants {
            check_tenant(tenant)?;
            if !names.insert(tenant.name.as_str()) {
                return Err(InvalidSnapshot::TenantTwice(tenant.name.clone()));
            }
        }
        Ok(())
    }
}

fn check_model(model: &ModelEndpoints) -> Result<(), InvalidSnapshot> {
    text("model deployment", &model.deployment, DEPLOYMENT_BYTES_MAX)?;
    at_most("endpoints of a model", model.endpoints.len(), ENDPOINTS_MAX)?;
    for endpoint in &model.endpoints {
        text("replica", &endpoint.replica, NAME_BYTES_MAX)?;
        // A replica that has no place yet cannot be ready.
        let has_none = endpoint.address.is_empty() && !endpoint.ready;
        if !has_none && endpoint.address.parse::<SocketAddr>().is_err() {
            return Err(no("address", &endpoint.address));
        }
    }
    if let Access::Only(tenants) = &model.access {
        at_most("tenants of a model", tenants.len(), TENANTS_MAX)?;
        tenants.iter().try_for_each(|tenant| text("tenant", tenant, NAME_BYTES_MAX))?;
    }
    Ok(())
}

fn check_tenant(tenant: &TenantKeys) -> Result<(), InvalidSnapshot> {
    text("tenant", &tenant.name, NAME_BYTES_MAX)?;
    at_most("keys of a tenant", tenant.keys.len(), KEYS_MAX)?;
    tenant.keys.iter().try_for_each(|key| text("key's name", &key.name, NAME_BYTES_MAX))
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), InvalidSnapshot> {
    if count <= max { Ok(()) } else { Err(InvalidSnapshot::TooMany { what, count, max }) }
}

/// Names go into headers, labels and logs: printable ASCII without spaces, not empty.
fn text(what: &'static str, text: &str, bytes_max: usize) -> Result<(), InvalidSnapshot> {
    let fits = (1..=bytes_max).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(no(what, text))
    }
}

pub(super) fn no(what: &'static str, text: &str) -> InvalidSnapshot {
    InvalidSnapshot::Text { what, text: text.chars().take(80).collect() }
}
