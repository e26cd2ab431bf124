//! `naru gateway`: the front door by itself, following an operator.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use naru_gateway::{Entrance, FollowConfig, Follower, Gateway, KeyRule, Limits, Reach};
use naru_gateway::{bind, ops_router, serve};
use naru_protocol::tls::{Identity, Role};
use naru_protocol::{Snapshot, SnapshotVersion};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::entrance;
use crate::failure::Failure;
use crate::process;
use crate::setup::{self, OPS_DRAIN};
use crate::signals::Signals;

const EXAMPLES: &str = "\
Examples:
  naru gateway --operator naru-operator.naru-system.svc:8001
  naru gateway --operator 10.0.0.7:8001 --operator 10.0.0.8:8001 --data-dir /tmp/gateway
  naru gateway --operator 10.0.0.7:8001 --listen 0.0.0.0:443 --tls-cert tls.crt --tls-key tls.key

Follows the leader among the operators and serves on by the last snapshot when none can be
reached, also after a restart. SIGTERM drains: /readyz says no at once, connections are taken for
--leave-seconds more, then requests in progress finish within --drain-seconds.

Requests need a key of a Tenant, except on a loopback address while there is no Tenant.

Environment:
  NARU_LOG  how much is logged: error, warn, info (default), debug
  OTEL_EXPORTER_OTLP_ENDPOINT
            who is told a span of each request, over gRPC: http://HOST:4317 (default: nobody)

Exit codes: 0 stopped by a signal after draining, 1 failed, 2 bad usage.";

/// What `naru gateway` is told.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Where operators can be followed; may be given several times. A name is resolved again at
    /// each attempt, to all its addresses
    #[arg(long = "operator", value_name = "HOST:PORT", required = true, env = "NARU_OPERATOR")]
    #[arg(value_delimiter = ',')]
    operators: Vec<String>,
    /// Where the OpenAI API listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: String,
    #[command(flatten)]
    entrance: entrance::Arguments,
    /// Where /metrics, /healthz and /readyz listen
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    ops_listen: String,
    /// Folder in which the last snapshot is kept; two gateways must not share one
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/naru")]
    data_dir: PathBuf,
    /// Directory of tls.crt, tls.key and ca.crt: then operators and workers are asked to prove who
    /// they are by a certificate of ca.crt, and so does this gateway; changed files are taken up
    #[arg(long, value_name = "DIRECTORY")]
    tls_dir: Option<PathBuf>,
    /// What this gateway calls itself to the operator
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "gateway")]
    name: String,
    /// Longest wait of a request for a model that starts or wakes
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait_seconds: u64,
    /// Time to go on taking connections after SIGTERM, where nothing else waits until none come
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u64).range(..=3_600))]
    leave_seconds: u64,
    /// Time for requests in progress to finish after that
    #[arg(long, value_name = "SECONDS", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(..=86_400))]
    drain_seconds: u64,
}

/// Runs until a signal ends it.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    crate::logs::init();
    for operator in &arguments.operators {
        check_operator(operator).map_err(Failure::BadUsage)?;
    }
    let certificate = arguments.entrance.certificate()?;
    setup::run("naru-gateway", None, async {
        let refused = |error| Failure::listening("--listen", error);
        let (api, keys) = bind(&arguments.listen, Reach::Anywhere).await.map_err(refused)?;
        let ops = setup::listen("--ops-listen", &arguments.ops_listen).await?;
        let (api, _) = entrance::at(api, certificate);
        let identity = identify(&arguments).map_err(Failure::Failed)?;
        FrontDoor { identity, arguments, api, keys, ops }.run().await.map_err(Failure::Failed)
    })
}

fn check_operator(operator: &str) -> anyhow::Result<()> {
    let port = operator.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let is_sound = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    anyhow::ensure!(is_sound, "--operator {operator:?}: HOST:PORT is needed");
    Ok(())
}

/// Who this gateway is, if it has to prove it; changed files are taken up from now on.
fn identify(arguments: &Arguments) -> anyhow::Result<Option<Arc<Identity>>> {
    let Some(directory) = arguments.tls_dir.clone() else { return Ok(None) };
    let identity = Identity::load(Role::Gateway, &directory);
    let identity = identity.with_context(|| format!("--tls-dir {}", directory.display()))?;
    let identity = Arc::new(identity);
    let followed = Arc::clone(&identity);
    tokio::spawn(async move { followed.follow(&directory).await });
    Ok(Some(identity))
}

/// Everything that has been checked and opened.
struct FrontDoor {
    identity: Option<Arc<Identity>>,
    arguments: Arguments,
    api: Entrance,
    keys: KeyRule,
    ops: TcpListener,
}

impl FrontDoor {
    async fn run(self) -> anyhow::Result<()> {
        let Self { identity, arguments, api, keys, ops } = self;
        let mut signals = Signals::new().context("listening for signals")?;
        let (readiness, ready) = watch::channel(Err("no snapshot yet".to_owned()));
        let (stop_gateway, gateway_stops) = watch::channel(None);
        let (stop_ops, ops_stops) = watch::channel(None);
        let (follower, snapshots) = Follower::new(FollowConfig {
            operators: arguments.operators,
            name: arguments.name,
            data_dir: arguments.data_dir,
        });
        let wait = Duration::from_secs(arguments.wait_seconds);
        let limits = Limits { wait, ..Limits::default() };
        let gateway = Gateway::with_identity(snapshots.clone(), keys, limits, identity);
        let gateway = gateway.context("setting metrics up")?;
        process::register(gateway.registry()).context("setting metrics up")?;
        let pages = ops_router(gateway.clone(), ready);
        let ops = tokio::spawn(serve(gateway.clone(), pages, ops, ops_stops));
        let router = gateway.router();
        let front = tokio::spawn(serve(gateway.clone(), router, api, gateway_stops));
        let following = tokio::spawn(follower.run(gateway));

        tokio::select! {
            () = signals.next() => {}
            () = becomes_ready(snapshots, &readiness) => signals.next().await,
        }
        let (leave, drain) = (arguments.leave_seconds, arguments.drain_seconds);
        tracing::info!(leave, drain, "draining; a second signal ends at once");
        signals.end_at_the_next();
        readiness.send_modify(|ready| *ready = Err("draining".to_owned()));
        sleep(Duration::from_secs(leave)).await;
        stop_gateway.send_replace(Some(Duration::from_secs(drain)));
        front.await.context("stopping the gateway")?;
        following.abort();
        stop_ops.send_replace(Some(OPS_DRAIN));
        ops.await.context("stopping the ops pages")
    }
}

/// Ready from the first snapshot on, wherever it comes from.
async fn becomes_ready(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    readiness: &watch::Sender<naru_gateway::Readiness>,
) {
    let has_come = |snapshot: &Arc<Snapshot>| snapshot.version != SnapshotVersion::default();
    if snapshots.wait_for(has_come).await.is_ok() {
        readiness.send_modify(|ready| *ready = Ok(()));
    }
}
