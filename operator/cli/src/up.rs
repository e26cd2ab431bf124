//! `naru up`: control loop, gateway and workers on one machine.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use naru_api::Wishes;
use naru_controller::machine::{DataDir, Machine, MachineConfig, WishFiles};
use naru_controller::{Controls, Outputs, PowerMetrics, Readiness};
use naru_gateway::{Entrance, Gateway, KeyRule, Limits, Reach, bind, ops_router, serve};
use naru_plan::Millis;
use naru_protocol::Snapshot;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::entrance;
use crate::failure::Failure;
use crate::process;
use crate::setup::{self, OPS_DRAIN};
use crate::signals::Signals;

const EXAMPLES: &str = "\
Examples:
  naru up -f solar.yaml
  naru up -f solar.yaml -f qwen.yaml --listen 127.0.0.1:8000

Files are read again whenever they change. A change that is wrong changes nothing and the log
says why. Without a Tenant no key is needed, and only this machine can connect.

Environment:
  NARU_WORKER     the naru-worker executable (default: beside this one)
  NARU_CACHE_DIR  where weights are kept (default: ~/.cache/naru)
  NARU_LOG        how much is logged: error, warn, info (default), debug

Exit codes: 0 stopped by a signal after draining, 1 failed, 2 bad usage or a bad file.";

/// What `naru up` is told.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// File with ModelDeployment, Tenant and PowerBudget documents; may be given several times
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where the OpenAI API listens; without a Tenant a loopback address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: String,
    #[command(flatten)]
    entrance: entrance::Arguments,
    /// Where /metrics, /healthz and /readyz listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    ops_listen: String,
    /// Folder of this naru up; two must not share one (default: up in the cache directory)
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// Runs until a signal ends it.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    crate::logs::init();
    let worker = find_worker().map_err(Failure::BadUsage)?;
    let certificate = arguments.entrance.certificate()?;
    let (files, wishes) = WishFiles::open(arguments.files).map_err(Failure::usage)?;
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let data_dir = arguments
        .data_dir
        .or_else(|| DataDir::default_path(variable))
        .ok_or_else(|| Failure::BadUsage(anyhow::anyhow!("without HOME, --data-dir is needed")))?;
    let _data_dir = DataDir::open(&data_dir).map_err(Failure::usage)?;
    let is_terminal = std::io::stderr().is_terminal();
    let machine = MachineConfig::detect(worker, is_terminal);
    setup::run("naru", None, async {
        let reach = if wishes.tenants.is_empty() { Reach::ThisMachine } else { Reach::Anywhere };
        let refused = |error| Failure::listening("--listen", error);
        let (api, keys) = bind(&arguments.listen, reach).await.map_err(refused)?;
        let ops = setup::listen("--ops-listen", &arguments.ops_listen).await?;
        let address = api.local_addr().context("reading the address of the API");
        let address = address.map_err(Failure::Failed)?;
        let (api, scheme) = entrance::at(api, certificate);
        let url = format!("{scheme}://{address}/v1");
        let platform = Platform { machine, files, wishes, api, url, keys, ops };
        platform.run().await.map_err(Failure::Failed)
    })
}

/// `NARU_WORKER`, else `naru-worker` beside this executable.
pub(crate) fn find_worker() -> anyhow::Result<PathBuf> {
    let chosen = std::env::var_os("NARU_WORKER").filter(|value| !value.is_empty());
    let path = match chosen {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()
            .context("finding this executable")?
            .with_file_name(format!("naru-worker{}", std::env::consts::EXE_SUFFIX)),
    };
    anyhow::ensure!(
        path.is_file(),
        "the worker {} does not exist: build it (`cargo build -p naru-worker`) or set NARU_WORKER",
        path.display()
    );
    Ok(path)
}

/// Everything that has been checked and opened.
struct Platform {
    machine: MachineConfig,
    files: WishFiles,
    wishes: Wishes,
    api: Entrance,
    /// Where the API is.
    url: String,
    keys: KeyRule,
    ops: TcpListener,
}

impl Platform {
    async fn run(self) -> anyhow::Result<()> {
        let Self { machine, files, wishes, api, url, keys, ops } = self;
        let (wishes, wished) = watch::channel(Arc::new(wishes));
        let (snapshots, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let (readiness, ready) = watch::channel(Err("starting".to_owned()));
        let (stop_gateway, gateway_stops) = watch::channel(None);
        let (stop_ops, ops_stops) = watch::channel(None);
        let (stop_workers, workers_stop) = watch::channel(None);
        let mut signals = Signals::new().context("listening for signals")?;

        let gateway = Gateway::new(snapshot, keys, Limits::default());
        let gateway = gateway.context("setting metrics up")?;
        process::register(gateway.registry()).context("setting metrics up")?;
        let power = PowerMetrics::register(gateway.registry()).context("setting metrics up")?;
        let pages = ops_router(gateway.clone(), ready.clone());
        let ops = tokio::spawn(serve(gateway.clone(), pages, ops, ops_stops));
        let router = gateway.router();
        let front = tokio::spawn(serve(gateway, router, api, gateway_stops));
        let controls = Controls { wishes: wished.clone(), stop: workers_stop };
        let outputs = Outputs { snapshots, readiness };
        let world = Machine::new(machine, power);
        let workers = tokio::spawn(naru_controller::run(world, controls, outputs));
        let files = tokio::spawn(files.watch(wishes));
        tokio::spawn(announce(ready, format!("ready {url}")));

        signals.next().await;
        let drain =
            wished.borrow().deployments.iter().map(|wish| wish.drain).max().unwrap_or_default();
        tracing::info!(seconds = drain.0 / 1000, "draining; a second signal ends at once");
        signals.end_at_the_next(); // workers end with their standard input
        files.abort();
        let begun = Instant::now();
        stop_gateway.send_replace(Some(Duration::from_millis(drain.0)));
        // Requests in progress need their workers: these go when the gateway has finished.
        front.await.context("stopping the gateway")?;
        let left = Duration::from_millis(drain.0).saturating_sub(begun.elapsed());
        let left = Millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        stop_workers.send_replace(Some(left));
        workers.await.context("stopping the workers")?;
        stop_ops.send_replace(Some(OPS_DRAIN));
        ops.await.context("stopping the ops pages")
    }
}

/// Prints one line once everything is ready.
async fn announce(mut ready: watch::Receiver<Readiness>, line: String) {
    if ready.wait_for(Result::is_ok).await.is_ok() {
        // Whoever started naru may have stopped reading.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}
