//! `naru operator`: the control loop of a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use naru_controller::election::{Candidate, Identity, Leadership, Timing};
use naru_controller::kubernetes::{KubernetesConfig, Metrics, WorkerImage, connect, lead, pages};
use naru_controller::{KnownModels, Outputs, Publisher};
use naru_protocol::{Snapshot, tls};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::failure::{Failure, then_try};
use crate::process;
use crate::setup;
use crate::signals::Signals;
use crate::trust::{self, Trust};
use crate::weights;

/// The Lease by which one of several operators leads.
const LEASE: &str = "naru-operator";

/// How often the certificate in use is looked at for `/metrics`.
const SHOW: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  naru operator                                  in a pod, as the Helm chart starts it
  KUBECONFIG=~/.kube/config naru operator --namespace naru-system --worker-image naru/worker:0.1.0

Several may run: the one that holds the Lease naru-operator acts, the others wait. Stopping one
stops no worker.

Environment:
  KUBECONFIG   how to reach the API server (default: as the pod it runs in)
  POD_NAME     the name of that pod, for the Lease and for events
  NARU_LOG     how much is logged: error, warn, info (default), debug
  OTEL_EXPORTER_OTLP_ENDPOINT
               who is told spans of what is written, over gRPC: http://HOST:4317 (default: nobody)

Exit codes: 0 stopped by a signal, 1 failed, 2 bad usage.";

/// What `naru operator` is told.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The namespace that naru is installed in
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "naru-system")]
    namespace: String,
    /// The image of naru-worker
    #[arg(long, value_name = "IMAGE", env = "NARU_WORKER_IMAGE")]
    worker_image: String,
    /// When nodes fetch that image
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    worker_image_pull_policy: String,
    /// Where gateways follow this operator
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8001")]
    control_listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz listen
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    ops_listen: SocketAddr,
    /// Seconds after which a lease that was not renewed is anybody's
    #[arg(long, value_name = "SECONDS", default_value = "15")]
    lease_seconds: u64,
    /// Seconds after which a leader that could not renew its lease stops acting
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    lease_renew_seconds: u64,
    /// Seconds between two looks at the lease
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    lease_retry_seconds: u64,
    #[command(flatten)]
    trust: trust::Arguments,
    #[command(flatten)]
    weights: weights::Arguments,
}

impl Arguments {
    fn timing(&self) -> anyhow::Result<Timing> {
        let [lease, renew, retry] =
            [self.lease_seconds, self.lease_renew_seconds, self.lease_retry_seconds]
                .map(Duration::from_secs);
        let timing = Timing { lease, renew, retry };
        match timing.fault() {
            None => Ok(timing),
            Some(fault) => Err(anyhow!(
                "--lease-seconds, --lease-renew-seconds, --lease-retry-seconds: {fault}"
            )),
        }
    }
}

/// Runs until a signal ends it.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    crate::logs::init();
    let timing = arguments.timing().map_err(Failure::BadUsage)?;
    let not_empty = |value: &str, flag: &str| {
        if value.trim().is_empty() {
            return Err(Failure::BadUsage(anyhow!("{flag} must not be empty")));
        }
        Ok(())
    };
    not_empty(&arguments.worker_image, "--worker-image")?;
    not_empty(&arguments.namespace, "--namespace")?;
    setup::run("naru-operator", Some(2), async {
        let client = connect().await.map_err(|error| {
            Failure::BadUsage(then_try(error.into(), "KUBECONFIG=FILE naru operator"))
        })?;
        let ops = setup::listen("--ops-listen", arguments.ops_listen).await?;
        let trust = Trust::new(&arguments.trust, &arguments.namespace).await?;
        let metrics = metrics().context("setting metrics up").map_err(Failure::Failed)?;
        let pod = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
        let identity = Identity::of_process(pod.as_deref());
        let candidate =
            Candidate::new(client.clone(), &arguments.namespace, LEASE, identity, timing);
        let worker = WorkerImage {
            image: arguments.worker_image.clone(),
            pull_policy: arguments.worker_image_pull_policy.clone(),
            has_tls: true,
            env: arguments.weights.env(),
            cache: arguments.weights.cache(),
        };
        let control = setup::listen("--control-listen", arguments.control_listen).await?;
        let (snapshots, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let publisher = Publisher::new(snapshot);
        let demands = publisher.demands();
        let models = KnownModels::default();
        let config = KubernetesConfig {
            client,
            worker,
            instance: pod,
            metrics,
            demands,
            models,
            identity: None,
        };
        let gateways = Gateways { publisher, listener: control };
        operate(config, candidate, Outside { trust, gateways, ops }, snapshots)
            .await
            .map_err(Failure::Failed)
    })
}

fn metrics() -> anyhow::Result<Metrics> {
    let metrics = Metrics::new()?;
    process::register(metrics.registry())?;
    Ok(metrics)
}

/// Whom this operator talks to, besides the API server and members.
struct Outside {
    trust: Trust,
    gateways: Gateways,
    ops: TcpListener,
}

/// Those who follow it.
struct Gateways {
    publisher: Publisher,
    listener: TcpListener,
}

impl Gateways {
    /// Serves them as somebody: once there is a certificate to show.
    async fn serve(self, identity: Known) -> anyhow::Result<()> {
        let Some(identity) = known(identity).await else { return std::future::pending().await };
        let publisher = self.publisher.with_identity(identity);
        publisher.serve(self.listener, std::future::pending()).await.context("serving gateways")
    }
}

/// Who this operator is, once that is known.
type Known = watch::Receiver<Option<Arc<tls::Identity>>>;

async fn known(mut identity: Known) -> Option<Arc<tls::Identity>> {
    identity.wait_for(Option::is_some).await.ok().and_then(|known| known.clone())
}

async fn operate(
    config: KubernetesConfig,
    candidate: Candidate,
    outside: Outside,
    snapshots: watch::Sender<Arc<Snapshot>>,
) -> anyhow::Result<()> {
    let Outside { trust, gateways, ops } = outside;
    let mut signals = Signals::new().context("listening for signals")?;
    let (leadership, leads) = watch::channel(None);
    let (is_asked, asked) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let (readiness, _ready) = watch::channel(Err("starting".to_owned()));
    let (is_ready, ready) = watch::channel(false);
    let pages = pages(config.metrics.clone(), ready);
    let pages = tokio::spawn(async move { axum::serve(ops, pages).await });
    let mut candidate = tokio::spawn(candidate.run(leadership, is_asked, stopped));
    let leading = whether(leads.clone());
    let (mut trusting, identity) = trust.start(&config.client, leading, config.models.clone());
    let gateways = gateways.serve(identity.clone());
    tokio::spawn(becomes_ready(asked, identity.clone(), is_ready));
    let outputs = Outputs { snapshots, readiness };
    let mut leading = tokio::spawn(lead_known(config, identity, leads, outputs));
    tokio::select! {
        () = signals.next() => {}
        ended = &mut candidate => return Err(anyhow!("the election ended: {ended:?}")),
        ended = &mut leading => return Err(anyhow!("the loop ended: {ended:?}")),
        ended = gateways => return Err(anyhow!("serving gateways ended: {ended:?}")),
        ended = pages => return Err(anyhow!("the ops pages ended: {ended:?}")),
    }
    signals.end_at_the_next();
    // The lease is given back only once nothing acts any more.
    leading.abort();
    let _ = (&mut leading).await;
    trusting.shutdown().await;
    stop.send_replace(true);
    candidate.await.context("giving the lease back")
}

/// Ready once the API server has answered and there is a certificate for those who call.
async fn becomes_ready(
    mut asked: watch::Receiver<bool>,
    identity: Known,
    is_ready: watch::Sender<bool>,
) {
    let is_asked = asked.wait_for(|asked| *asked).await.is_ok();
    if is_asked && known(identity).await.is_some() {
        is_ready.send_replace(true);
    }
    // The page goes on saying so.
    is_ready.closed().await;
}

/// Leads as somebody: once there is a certificate to show to members.
async fn lead_known(
    config: KubernetesConfig,
    identity: Known,
    leads: watch::Receiver<Leadership>,
    outputs: Outputs,
) {
    let Some(known) = known(identity).await else { return };
    let metrics = config.metrics.clone();
    let shown = Arc::clone(&known);
    let show = async {
        loop {
            metrics.certificate(shown.expires_unix_seconds());
            sleep(SHOW).await;
        }
    };
    tokio::select! {
        () = lead(KubernetesConfig { identity: Some(known), ..config }, leads, outputs) => {}
        () = show => {}
    }
}

/// Whether this operator leads, for those who need not know since when.
fn whether(mut leadership: watch::Receiver<Leadership>) -> watch::Receiver<bool> {
    let (whether, leads) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            whether.send_replace(leadership.borrow_and_update().is_some());
            if leadership.changed().await.is_err() {
                return;
            }
        }
    });
    leads
}
