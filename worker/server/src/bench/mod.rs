//! `naru-worker bench-links`, which `naru bench links` runs: what joins ranks, measured on this
//! machine.
//!
//! ```text
//! this process: rank 0 ◀─ threads ─▶ rank 1
//!               rank 0 ◀─ TCP, and TCP with TLS ─▶ rank 1: a process of the same program
//! ```

mod measure;
mod report;

use std::io::{BufRead, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use clap::Parser;
use naru_engine::{Clock, Collective, Parallelism, ThreadCollective};
use naru_protocol::tls::{Identity, Pem, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::links::{Side, meet};
use measure::{Measured, follow, lead};
use report::{Report, Table};

/// The first word of the command line that asks for this.
pub(crate) const COMMAND: &str = "bench-links";
/// From one value for two ranks each to a long prompt's hidden states.
const SIZES: &[usize] = &[8, 64, 512, 2 << 10, 8 << 10, 64 << 10, 512 << 10, 4 << 20];

/// Measures latency and bandwidth between two ranks on this machine.
#[derive(Debug, Parser)]
#[command(name = "naru-worker bench-links", version)]
struct Args {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,

    /// Be rank 1 of a measurement; standard input says of which
    #[arg(long, hide = true)]
    peer: bool,
}

/// What the other process is told: one line of JSON on its standard input.
#[derive(Serialize, Deserialize)]
struct Call {
    /// HOST:PORT of rank 0.
    address: String,
    proof: Option<Proof>,
}

/// PEM of a worker's certificate, for this measurement alone.
#[derive(Clone, Serialize, Deserialize)]
struct Proof {
    certificate: String,
    key: String,
    authority: String,
}

impl Proof {
    fn make() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut params = CertificateParams::new(vec![Role::Worker.dns_name().to_owned()])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), authority: authority.pem() })
    }

    fn identity(self) -> anyhow::Result<Arc<Identity>> {
        let pem = Pem {
            certificate: self.certificate.into_bytes(),
            key: self.key.into_bytes(),
            authorities: self.authority.into_bytes(),
        };
        Ok(Arc::new(Identity::new(Role::Worker, &pem).context("reading the certificate")?))
    }
}

/// Does what the rest of the command line asks for.
pub(crate) fn run() -> ExitCode {
    let args = Args::parse_from(std::env::args_os().skip(1));
    let done = if args.peer { answer() } else { measure_all(args.json) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "naru-worker {COMMAND}: {error:#}");
            ExitCode::from(crate::FAILED)
        }
    }
}

fn measure_all(json: bool) -> anyhow::Result<()> {
    let tables = vec![
        Table { between: "threads of one process", rows: between_threads()? },
        Table { between: "processes, TCP", rows: between_processes(None)? },
        Table {
            between: "processes, TCP with TLS",
            rows: between_processes(Some(Proof::make()?))?,
        },
    ];
    let report = Report::new(tables);
    let text = if json { report.json()? } else { report.text() };
    // Whoever asked has gone, if this fails.
    writeln!(std::io::stdout(), "{}", text.trim_end()).context("writing what was measured")
}

fn pair() -> anyhow::Result<Parallelism> {
    Parallelism::new(2, 1).context("two ranks")
}

fn between_threads() -> anyhow::Result<Vec<Measured>> {
    let start = Instant::now();
    let clock: Clock = Arc::new(move || start.elapsed());
    let ranks: [ThreadCollective; 2] = ThreadCollective::group(pair()?, &clock)
        .try_into()
        .map_err(|_| anyhow!("two ranks are two"))?;
    let [mut first, mut second] = ranks;
    thread::scope(|scope| {
        let following = scope.spawn(move || follow(&mut second));
        let found = lead(&mut first, SIZES);
        drop(first);
        following.join().map_err(|_| anyhow!("rank 1 panicked"))??;
        found
    })
}

fn between_processes(proof: Option<Proof>) -> anyhow::Result<Vec<Measured>> {
    let runtime = runtime()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("listening")?;
    let address = listener.local_addr().context("reading a bound address")?.to_string();
    let mut peer = start_peer(&Call { address, proof: proof.clone() })?;
    let identity = proof.map(Proof::identity).transpose()?;
    let found = runtime
        .block_on(meet(Side::Waits(listener), pair()?, identity))
        .map_err(anyhow::Error::new)
        .and_then(|mut mesh| lead(&mut mesh, SIZES));
    if found.is_err() {
        // An error: it has ended.
        let _ = peer.kill();
    }
    let status = peer.wait().context("waiting for rank 1's process")?;
    let found = found.context("measuring with another process")?;
    ensure!(status.success(), "rank 1's process ended with {status}");
    Ok(found)
}

fn start_peer(call: &Call) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("finding this executable")?;
    let mut peer = Command::new(program)
        .args([COMMAND, "--peer"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("starting rank 1's process")?;
    let mut line = serde_json::to_vec(call).context("telling rank 1's process")?;
    line.push(b'\n');
    let mut stdin = peer.stdin.take().context("its standard input is a pipe")?;
    if let Err(error) = stdin.write_all(&line) {
        // An error: it has ended.
        let _ = peer.kill();
        let _ = peer.wait();
        return Err(error).context("telling rank 1's process");
    }
    Ok(peer)
}

/// Rank 1's process.
fn answer() -> anyhow::Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("reading standard input")?;
    let Call { address, proof } = serde_json::from_str(&line).context("reading what to do")?;
    let identity = proof.map(Proof::identity).transpose()?;
    let runtime = runtime()?;
    let met = runtime.block_on(meet(Side::Comes(address), pair()?, identity));
    let mut mesh = met.context("meeting rank 0")?;
    follow(&mut mesh as &mut dyn Collective)
}

fn runtime() -> anyhow::Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().context("starting the runtime")
}
