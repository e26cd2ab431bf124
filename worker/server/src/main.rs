//! One member of a replica: OpenAI's API over HTTP, the operator's gRPC, and the engine's thread.
//!
//! ```text
//! weights (path, https, hf) → load → engine's thread ⇄ drive ⇄ http ⇄ clients
//!                  member: fetching → loading → ready → draining → http, control
//! ```

mod args;
mod clock;
mod control;
mod drive;
mod http;
mod load;
mod log;
mod member;
mod metrics;
mod shutdown;
mod text;
mod weights;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use crate::args::Args;
use crate::http::{Connections, Http};
use crate::load::EngineSettings;
use crate::member::{Member, Phase};
use crate::shutdown::Signals;
use crate::weights::{Fetcher, ModelUri};

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    log::start();
    let plan = match Plan::new(args) {
        Ok(plan) => plan,
        Err(error) => {
            tracing::error!("{error:#}");
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
        let result = runtime.block_on(plan.run());
        // Nothing that is still going on may hold the process up.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(FAILED)
        }
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
    uri: ModelUri,
    settings: EngineSettings,
}

impl Plan {
    fn new(args: Args) -> anyhow::Result<Self> {
        let level = std::env::var("NARU_CPU_LEVEL").ok();
        let settings = EngineSettings::new(&args, level.as_deref())?;
        let uri: ModelUri = args.model.parse().context("--model")?;
        Ok(Self { args, uri, settings })
    }

    async fn run(self) -> anyhow::Result<()> {
        let Self { args, uri, settings } = self;
        let signals = Signals::new().context("installing signal handlers")?;
        let mut names = args.served_names.clone();
        if names.is_empty() {
            names.push(uri.default_name());
        }
        let member = Arc::new(Member::new(names, args.drain_seconds));
        let connections = Connections::new();
        listen(&args, &member, &connections).await?;
        tokio::spawn(signals.obey(Arc::clone(&member)));
        if args.exit_with_stdin {
            shutdown::exit_with_stdin();
        }
        tokio::spawn(obtain_and_load(args, uri, settings, Arc::clone(&member)));
        shutdown::wait(&member, connections).await.map_err(anyhow::Error::msg)
    }
}

/// Binds every address, says on one line of standard output where, and serves.
async fn listen(
    args: &Args,
    member: &Arc<Member>,
    connections: &Connections,
) -> anyhow::Result<()> {
    let body_bytes_max = usize::try_from(args.max_body).unwrap_or(usize::MAX);
    let state = Arc::new(Http { member: Arc::clone(member), body_bytes_max });
    let api = bind(args.listen).await?;
    let ops = match args.ops_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let control = bind(args.control_listen).await?;
    let url = |listener: &TcpListener| -> anyhow::Result<String> {
        Ok(format!("http://{}", listener.local_addr().context("reading a bound address")?))
    };
    let line = serde_json::json!({
        "http": url(&api)?,
        "control": url(&control)?,
        "ops": url(ops.as_ref().unwrap_or(&api))?,
    });
    // A parent that does not read this line is free not to.
    let _ = writeln!(std::io::stdout(), "{line}");
    let router = http::api(Arc::clone(&state), ops.is_none());
    tokio::spawn(http::serve(api, router, Some(member.changes()), connections.token()));
    if let Some(ops) = ops {
        // Stays up while draining, and is not waited for.
        let token = Connections::new().token();
        tokio::spawn(http::serve(ops, http::ops(state), None, token));
    }
    let member = Arc::clone(member);
    tokio::spawn(async move {
        if let Err(error) = control::serve(control, Arc::clone(&member)).await {
            member.enter(Phase::Failed(format!("the control server ended: {error}")));
        }
    });
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
}

/// Brings the weights here if they are elsewhere, then starts the engine's thread.
async fn obtain_and_load(args: Args, uri: ModelUri, settings: EngineSettings, member: Arc<Member>) {
    let fetcher = Fetcher::new(&args, Arc::clone(&member));
    match fetcher.obtain(&uri).await {
        Ok(path) => load::start(member, settings, path),
        Err(error) => {
            let reason = format!("{:#}", anyhow::Error::new(error));
            member.enter(Phase::Failed(reason));
        }
    }
}
