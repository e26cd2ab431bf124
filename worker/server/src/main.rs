//! One member of a replica: OpenAI's API over HTTP, the operator's gRPC, and the engine's thread.
//!
//! ```text
//! weights (path, https, hf, oci, s3) → load → engine's thread ⇄ drive ⇄ http ⇄ clients
//!    or sim: no weights ────────┘
//!                  member: fetching → loading → ready → draining → http, control
//! ```

mod args;
mod bench;
mod clock;
mod control;
mod cuda;
mod drive;
mod http;
mod links;
mod load;
mod log;
mod member;
mod metrics;
mod ranks;
mod shutdown;
mod sim;
mod text;
mod weights;

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use naru_kernels::cuda::Gpu;
use naru_protocol::log::NO_USABLE_GPU;
use naru_protocol::tls::{Identity, Role};
use naru_protocol::worker::v1::WeightsFault;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use crate::args::Args;
use crate::http::{Connections, Http};
use crate::load::{EngineSettings, Source, Weights};
use crate::member::{Failure, Member, Phase};
use crate::ranks::RankSettings;
use crate::shutdown::Signals;
use crate::sim::SimSettings;
use crate::weights::{Fetcher, ModelUri};

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == bench::COMMAND) {
        return bench::run();
    }
    let args = Args::parse();
    log::start();
    let plan = match Plan::new(args) {
        Ok(plan) => plan,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    let gpus = match cuda::open(plan.devices.clone(), plan.ranks.as_ref()) {
        Ok(gpus) => gpus,
        Err(why) => {
            tracing::error!(fault = NO_USABLE_GPU, "no usable GPU: {why}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    allow_many_files();
    // Connections are served by two threads, and whatever may take long by a few more.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build();
    let result = runtime.context("starting the runtime").and_then(|runtime| {
        let result = runtime.block_on(plan.run(gpus));
        // Nothing that is still going on may hold the process up.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            let failure = error.downcast_ref::<Failure>();
            let is_bad_usage = failure.is_some_and(|failure| failure.is_bad_usage);
            ExitCode::from(if is_bad_usage { BAD_USAGE } else { FAILED })
        }
    }
}

/// The last line of the log: for people, and for programs what kind of failure it is.
fn say(error: &anyhow::Error) {
    let fault = error.downcast_ref::<Failure>().map(|failure| failure.fault);
    match fault.filter(|fault| *fault != WeightsFault::Unspecified) {
        Some(fault) => tracing::error!(weights_fault = fault.as_str_name(), "{error:#}"),
        None => tracing::error!("{error:#}"),
    }
}

/// Each connection is a file; systems often allow few until they are asked.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "raising the number of files that may be open");
    }
}

/// The command line, checked.
struct Plan {
    args: Args,
    model: Model,
    settings: EngineSettings,
    /// The numbers of the GPUs that compute, one for each rank here; on a processor there are none.
    devices: Range<u32>,
    /// What this worker is among others, if it is not a replica alone.
    ranks: Option<RankSettings>,
}

/// What is served.
enum Model {
    Weights(ModelUri),
    Simulated(SimSettings),
}

impl Model {
    /// The served name if none was given.
    fn default_name(&self) -> String {
        match self {
            Self::Weights(uri) => uri.default_name(),
            Self::Simulated(sim) => sim.name.clone(),
        }
    }

    fn fingerprint(&self) -> Option<String> {
        match self {
            Self::Weights(_) => None,
            Self::Simulated(sim) => Some(sim.fingerprint()),
        }
    }
}

impl Plan {
    fn new(args: Args) -> anyhow::Result<Self> {
        let level = std::env::var("NARU_CPU_LEVEL").ok();
        let settings = EngineSettings::new(&args, level.as_deref())?;
        if args.tls_dir.is_some() && args.ops_listen.is_none() {
            let why = "--tls-dir needs --ops-listen: probes and Prometheus show no certificate";
            return Err(anyhow::Error::msg(why));
        }
        let ranks = RankSettings::new(&args)?;
        let devices = cuda::devices(&args, ranks.as_ref())?;
        let model = match SimSettings::new(&args)? {
            Some(sim) => Model::Simulated(sim),
            None => Model::Weights(args.model.parse().context("--model")?),
        };
        Ok(Self { args, model, settings, devices, ranks })
    }

    async fn run(self, gpus: Vec<Gpu>) -> anyhow::Result<()> {
        let Self { args, model, settings, devices: _, ranks } = self;
        let signals = Signals::new().context("installing signal handlers")?;
        let mut names = args.served_names.clone();
        if names.is_empty() {
            names.push(model.default_name());
        }
        let member = Arc::new(Member::new(names, model.fingerprint(), args.drain_seconds));
        let connections = Connections::new();
        let identity = identify(&args)?;
        let seats = match ranks {
            Some(ranks) => ranks::open_seats(ranks, identity.as_ref(), &connections).await?,
            None => Vec::new(),
        };
        listen(&args, &member, &connections, identity).await?;
        tokio::spawn(signals.obey(Arc::clone(&member)));
        if args.exit_with_stdin {
            shutdown::exit_with_stdin();
        }
        let weights = |path, is_fetched| Weights { path, is_fetched, gpus, seats };
        tokio::spawn(obtain_and_load(args, model, settings, Arc::clone(&member), weights));
        shutdown::wait(&member, connections).await.map_err(anyhow::Error::new)
    }
}

/// Who this worker is, if it has to prove it; changed files are taken up from now on.
fn identify(args: &Args) -> anyhow::Result<Option<Arc<Identity>>> {
    let Some(directory) = args.tls_dir.clone() else { return Ok(None) };
    let identity = Identity::load(Role::Worker, &directory);
    let identity = identity.with_context(|| format!("--tls-dir {}", directory.display()))?;
    let identity = Arc::new(identity);
    let followed = Arc::clone(&identity);
    tokio::spawn(async move { followed.follow(&directory).await });
    Ok(Some(identity))
}

/// Binds every address, says on one line of standard output where, and serves.
async fn listen(
    args: &Args,
    member: &Arc<Member>,
    connections: &Connections,
    identity: Option<Arc<Identity>>,
) -> anyhow::Result<()> {
    let body_bytes_max = usize::try_from(args.max_body).unwrap_or(usize::MAX);
    let scheme = if identity.is_some() { "https" } else { "http" };
    let state =
        Arc::new(Http { member: Arc::clone(member), body_bytes_max, identity: identity.clone() });
    let api = bind(args.listen).await?;
    let ops = match args.ops_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let control = bind(args.control_listen).await?;
    let url = |scheme: &str, listener: &TcpListener| -> anyhow::Result<String> {
        Ok(format!("{scheme}://{}", listener.local_addr().context("reading a bound address")?))
    };
    let line = serde_json::json!({
        "http": url(scheme, &api)?,
        "control": url(scheme, &control)?,
        "ops": url("http", ops.as_ref().unwrap_or(&api))?,
    });
    // A parent that does not read this line is free not to.
    let _ = writeln!(std::io::stdout(), "{line}");
    let entrance = http::entrance(Arc::clone(&state), ops.is_none());
    tokio::spawn(http::serve(api, entrance, Some(member.changes()), connections.token()));
    if let Some(ops) = ops {
        // Stays up while draining, and is not waited for.
        let token = Connections::new().token();
        tokio::spawn(http::serve(ops, http::ops(state), None, token));
    }
    let member = Arc::clone(member);
    tokio::spawn(async move {
        if let Err(error) = control::serve(control, Arc::clone(&member), identity).await {
            let words = format!("the control server ended: {error}");
            member.enter(Phase::Failed(words.into()));
        }
    });
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
}

/// Brings the weights here if they are elsewhere, then starts the engine's thread.
async fn obtain_and_load(
    args: Args,
    model: Model,
    settings: EngineSettings,
    member: Arc<Member>,
    weights: impl FnOnce(PathBuf, bool) -> Weights,
) {
    let uri = match model {
        Model::Weights(uri) => uri,
        Model::Simulated(sim) => return load::start(member, settings, Source::Simulated(sim)),
    };
    let fetcher = Fetcher::new(&args, Arc::clone(&member));
    match fetcher.obtain(&uri).await {
        Ok(path) => {
            let is_fetched = fetcher.has_fetched(&uri, &path);
            load::start(member, settings, Source::Weights(weights(path, is_fetched)));
        }
        Err(error) => {
            let fault = error.fault();
            let words = format!("{:#}", anyhow::Error::new(error));
            member.enter(Phase::Failed(Failure { words, fault, is_bad_usage: false }));
        }
    }
}
