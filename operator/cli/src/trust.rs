//! What makes an operator known and believed: everybody's certificates, and the webhook.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use naru_controller::KnownModels;
use naru_controller::certificates::{self, Issued, Lifetime, Settings};
use naru_controller::kubernetes::Client;
use naru_controller::webhook::{self, Certificate};
use naru_protocol::tls::{Identity, Role};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::setup;

/// What `naru operator` is told about it.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Arguments {
    /// How long certificates of operator, gateways and workers live: a number and s, m, h or d;
    /// they are replaced after two thirds of it
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime)]
    certificate_lifetime: Lifetime,
    /// Where the validating webhook listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9443")]
    webhook_listen: SocketAddr,
    /// Directory of tls.crt, tls.key and ca.crt for the webhook, where somebody else makes them
    /// and tells the API server; their names: naru-operator.NAMESPACE.svc, operator.naru.internal
    #[arg(long, value_name = "DIRECTORY")]
    webhook_tls_dir: Option<PathBuf>,
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("expected a number and s, m, h or d, such as 24h".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a number such as 24h".to_owned())?;
    number
        .checked_mul(unit)
        .and_then(Lifetime::new)
        .ok_or_else(|| format!("must be from {}s to 366d", Lifetime::SECONDS_MIN))
}

/// Everything that has been checked and opened.
pub(crate) struct Trust {
    settings: Settings,
    listener: TcpListener,
    provided: Option<(Arc<Identity>, PathBuf)>,
}

impl Trust {
    /// Errors: the command line asks for what is not there.
    pub(crate) async fn new(arguments: &Arguments, namespace: &str) -> Result<Self, Failure> {
        let listener = setup::listen("--webhook-listen", arguments.webhook_listen).await?;
        let provided = match arguments.webhook_tls_dir.clone() {
            None => None,
            Some(directory) => {
                let identity = Identity::load(Role::Operator, &directory)
                    .with_context(|| format!("--webhook-tls-dir {}", directory.display()))
                    .map_err(Failure::BadUsage)?;
                Some((Arc::new(identity), directory))
            }
        };
        let lifetime = arguments.certificate_lifetime;
        let settings = Settings { namespace: namespace.to_owned(), lifetime };
        Ok(Self { settings, listener, provided })
    }

    /// Starts all of it; it ends with what is returned. Whoever waits for the identity gets it
    /// once some leader has issued it.
    pub(crate) fn start(
        self,
        client: &Client,
        leads: watch::Receiver<bool>,
        models: KnownModels,
    ) -> (JoinSet<()>, watch::Receiver<Option<Arc<Identity>>>) {
        let Self { settings, listener, provided } = self;
        let issued = Issued::default();
        let identity = issued.identity.subscribe();
        let (namespaces, wanted) = watch::channel(BTreeMap::new());
        let mut tasks = JoinSet::new();
        let certificate = match provided {
            None => Certificate::Issued,
            Some((identity, directory)) => {
                let followed = Arc::clone(&identity);
                tasks.spawn(async move { followed.follow(&directory).await });
                Certificate::Provided(identity)
            }
        };
        tasks.spawn(certificates::keep(client.clone(), settings, wanted, leads, issued.clone()));
        let webhook =
            webhook::run(client.clone(), listener, certificate, issued, namespaces, models);
        tasks.spawn(webhook);
        (tasks, identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_as_people_write_them() {
        #[track_caller]
        fn check(text: &str, seconds: Option<u64>) {
            assert_eq!(lifetime(text).ok().map(Lifetime::leaf), seconds, "{text}");
        }
        check("24h", Some(86_400));
        check("90s", Some(90));
        check("10m", Some(600));
        check("7d", Some(604_800));
        check("5s", None);
        check("367d", None);
        check("24", None);
        check("h", None);
        check("-1h", None);
        check("99999999999999999999d", None);
    }
}
