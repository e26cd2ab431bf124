//! What every command that stays up begins with.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::runtime::Builder;

use crate::failure::Failure;
use crate::traces::Traces;

/// What the ops pages get to finish when everything else is done.
pub(crate) const OPS_DRAIN: Duration = Duration::from_secs(1);

/// What is still going on when a command is done may hold the process up for so long.
const REST: Duration = Duration::from_secs(1);

/// Runs a command to its end, on as many threads as the machine has cores if no number is given.
/// Whoever collects traces is told of it as `service`.
pub(crate) fn run(
    service: &'static str,
    threads: Option<usize>,
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build();
    let runtime = runtime.context("starting the runtime").map_err(Failure::Failed)?;
    let result = runtime.block_on(async {
        let traces = Traces::begin(service)?;
        let result = command.await;
        traces.end().await;
        result
    });
    runtime.shutdown_timeout(REST);
    result
}

/// Listens where `flag` says.
pub(crate) async fn listen(
    flag: &str,
    address: impl ToSocketAddrs + Display,
) -> Result<TcpListener, Failure> {
    let words = format!("listening on {address}");
    let listener = TcpListener::bind(address).await.context(words);
    listener.map_err(|error| Failure::listening(flag, error))
}
