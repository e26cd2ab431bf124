//! The validating webhook: refuses what only a second object shows to be wrong.
//!
//! ```text
//! watches ──▶ facts ──┐
//! API server ──▶ serve ──▶ admission ──▶ review (pure) ──▶ yes, or no and why
//! ```
//! What one object can tell is for the rules of the custom resource definition. Every operator
//! answers, whoever leads.

mod admission;
mod bundle;
mod facts;
mod review;
mod serve;
mod watch;

use std::sync::Arc;

use kube::Client;
use naru_protocol::tls::Identity;
use tokio::net::TcpListener;

use crate::certificates::{Issued, Namespaces};
use crate::models::KnownModels;

/// Where the webhook's certificate comes from.
pub enum Certificate {
    /// The operator's own, whose authority the API server is told of.
    Issued,
    /// Somebody else's, who also tells the API server.
    Provided(Arc<Identity>),
}

/// Watches the cluster, answers on `listener`, and tells the namespaces that have deployments.
/// What is known of `models` counts too. Never returns.
pub async fn run(
    client: Client,
    listener: TcpListener,
    certificate: Certificate,
    issued: Issued,
    namespaces: tokio::sync::watch::Sender<Namespaces>,
    models: KnownModels,
) {
    let facts = watch::Shared::beside(models);
    let watching = watch::watch(client.clone(), facts.clone(), namespaces);
    match certificate {
        Certificate::Issued => {
            let bundle = issued.bundle.subscribe();
            let serving = serve::serve(listener, issued.identity.subscribe(), facts);
            tokio::join!(watching, serving, bundle::keep(client, bundle));
        }
        Certificate::Provided(identity) => {
            let (_kept, identity) = tokio::sync::watch::channel(Some(identity));
            tokio::join!(watching, serve::serve(listener, identity, facts));
        }
    }
}
