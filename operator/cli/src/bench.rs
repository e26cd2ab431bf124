//! `naru bench`: what naru measures on this machine, each by the program that has the code.

use std::process::Command;

use anyhow::{Context, anyhow};

use crate::failure::Failure;
use crate::up::find_worker;

/// The first word of a worker that measures links.
const LINKS: &str = "bench-links";

const EXAMPLES: &str = "\
Examples:
  naru bench links
  naru bench links --json

Environment:
  NARU_WORKER     the naru-worker executable (default: beside this one)";

/// What `naru bench` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Measure what joins the ranks of a replica: sums, broadcasts and messages of 8 bytes to
    /// 4 MiB between two ranks of this machine, as threads, over TCP, and over TCP with TLS
    #[command(after_help = EXAMPLES)]
    Links {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

/// Has it measured, and prints what was found.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let What::Links { json } = arguments.what;
    let worker = find_worker().map_err(Failure::BadUsage)?;
    let mut command = Command::new(&worker);
    command.arg(LINKS).args(json.then_some("--json"));
    let status = command.status().with_context(|| format!("starting {}", worker.display()));
    let status = status.map_err(Failure::Failed)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow!("{} {LINKS} ended with {status}", worker.display())))
}
