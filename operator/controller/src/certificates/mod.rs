//! The internal authority: who in the cluster gets which certificate, and when another.
//!
//! ```text
//! Secrets ──▶ plan (pure) ──▶ a step ──▶ issue ──▶ Secrets ──▶ kubelets ──▶ each --tls-dir
//!    └──────────────────── the operator's own, read at once ──▶ Identity
//! ```
//! Only the leader writes. Every operator reads its own certificate, because each serves the
//! webhook.

mod issue;
mod keeper;
mod keys;
mod plan;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use naru_protocol::tls::{Identity, Pem, Role};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use keeper::{Holder, Keeper, Store};
use plan::UnixSeconds;
use store::Secrets;

pub use plan::Lifetime;
pub use store::Namespaces;

/// How often is looked whether somebody changed or removed a Secret.
const LOOK: Duration = Duration::from_secs(30);
/// After a failed turn.
const RETRY: Duration = Duration::from_secs(5);
/// How soon an operator that does not lead sees its new certificate.
const OWN: Duration = Duration::from_secs(5);

/// What the certificates of one release depend on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the operator runs.
    pub namespace: String,
    /// How long certificates are valid.
    pub lifetime: Lifetime,
}

/// What follows from certificates, for the rest of the operator.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Who the operator is; `None` until its first certificate is there.
    pub identity: watch::Sender<Option<Arc<Identity>>>,
    /// What whoever calls it must trust, in PEM; `None` while another operator leads.
    pub bundle: watch::Sender<Option<String>>,
}

impl Default for Issued {
    fn default() -> Self {
        Self { identity: watch::Sender::new(None), bundle: watch::Sender::new(None) }
    }
}

/// The name by which the API server calls the operator.
#[must_use]
pub fn service_name(namespace: &str) -> String {
    format!("naru-operator.{namespace}.svc")
}

/// Keeps everybody's certificates while this operator leads, and its own in use. Never returns.
pub async fn keep(
    client: Client,
    settings: Settings,
    namespaces: watch::Receiver<Namespaces>,
    leads: watch::Receiver<bool>,
    issued: Issued,
) {
    tokio::join!(
        lead(client.clone(), &settings, namespaces, leads, &issued),
        follow(client, &settings, &issued),
    );
}

async fn lead(
    client: Client,
    settings: &Settings,
    mut namespaces: watch::Receiver<Namespaces>,
    mut leads: watch::Receiver<bool>,
    issued: &Issued,
) {
    let keeper = Keeper {
        store: Secrets::new(client, settings.namespace.clone(), namespaces.clone()),
        lifetime: settings.lifetime,
        operator_names: vec![service_name(&settings.namespace)],
    };
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            // Nobody is left who could say that this operator leads.
            return std::future::pending().await;
        }
        let holders = holders(&namespaces.borrow_and_update());
        let pause = match keeper.turn(&holders, now).await {
            Ok(turned) => {
                issued.bundle.send_if_modified(|bundle| {
                    let is_new = bundle.as_ref() != Some(&turned.bundle);
                    *bundle = Some(turned.bundle);
                    is_new
                });
                let own = keeper.store.held(&Holder::Operator).await;
                take(own.map(|held| held.map(|held| held.pem)), issued);
                Duration::from_secs(turned.look_again.0.saturating_sub(now().0)).min(LOOK)
            }
            Err(error) => {
                tracing::warn!(error = story(&error), "keeping certificates");
                RETRY
            }
        };
        let until = Instant::now() + pause.max(Duration::from_millis(100));
        tokio::select! {
            () = sleep_until(until) => {}
            Ok(()) = namespaces.changed() => {}
            Ok(_) = leads.wait_for(|leads| !*leads) => {
                issued.bundle.send_replace(None);
            }
        }
    }
}

fn holders(namespaces: &Namespaces) -> Vec<Holder> {
    let workers =
        namespaces.keys().map(|namespace| Holder::Worker { namespace: namespace.clone() });
    [Holder::Operator, Holder::Gateway].into_iter().chain(workers).collect()
}

async fn follow(client: Client, settings: &Settings, issued: &Issued) {
    // Soon enough for every lifetime.
    let soon = Duration::from_secs(settings.lifetime.settle()) / 2;
    loop {
        take(store::own(&client, &settings.namespace).await, issued);
        sleep(OWN.min(soon)).await;
    }
}

/// Has the operator be who its newest files say.
fn take(pem: kube::Result<Option<Pem>>, issued: &Issued) {
    let pem = match pem {
        Ok(Some(pem)) => pem,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(error = story(&error), "reading the operator's own certificate");
            return;
        }
    };
    let identity = issued.identity.borrow().clone();
    let taken = match &identity {
        Some(identity) if identity.holds(&pem) => Ok(()),
        Some(identity) => identity.replace(&pem),
        None => Identity::new(Role::Operator, &pem).map(|identity| {
            issued.identity.send_replace(Some(Arc::new(identity)));
        }),
    };
    if let Err(error) = taken {
        tracing::warn!(error = story(&error), "the operator's own certificate is not usable");
    }
}

fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixSeconds(since.as_secs())
}

/// An error and what it came from, on one line.
pub(crate) fn story(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
