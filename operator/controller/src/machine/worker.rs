//! One worker process: started, listened to, told to drain, ended.
//!
//! The process is bound to this one twice: it ends with its standard input, and it is killed when
//! its task is dropped.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use naru_plan::{DeploymentName, ReplicaId, WorkerFailure};
use naru_protocol::worker::v1::StatusReport;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::logs;
use super::ports::PortsError;
use crate::last_words::LastWords;
use crate::member::{self, Heard, Order};

/// Longest first line of a worker.
const FIRST_LINE_BYTES_MAX: u64 = 4096;
/// What is left of a log is waited for this long once its worker is gone.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);
/// A process that was killed is waited for this long.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Which run of which member.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) deployment: DeploymentName,
    pub(super) replica: ReplicaId,
    pub(super) member: usize,
    pub(super) run: u64,
}

/// How the lines of a worker's log are passed on.
pub(super) struct Log {
    /// Whose they are, for people.
    pub(super) tag: String,
    pub(super) hides_progress: bool,
}

/// Something happened to a worker.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) from: Identity,
    pub(super) what: What,
}

/// What happened.
#[derive(Debug)]
pub(super) enum What {
    /// It said where its HTTP is.
    Listening {
        /// `host:port`.
        address: String,
    },
    /// It reported.
    Report(StatusReport),
    /// It runs and cannot be heard.
    Silent,
    /// Its process is gone.
    Ended(WorkerFailure),
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no process.
    #[error("starting {program}")]
    Start {
        /// The executable.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its ranks cannot find each other.
    #[error("choosing where the ranks of a replica meet")]
    Ports(#[source] PortsError),
}

/// Holds a worker's process; dropping it ends the process.
pub(super) struct Handle {
    process: Option<u32>,
    orders: mpsc::Sender<Order>,
    end: oneshot::Sender<()>,
    task: Task,
}

/// What follows a worker; dropping it kills the process.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Handle {
    pub(super) fn tell(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            tracing::debug!("a worker that is ending was told something");
        }
    }

    /// Stands for a process that ends when it is told to.
    #[cfg(test)]
    pub(super) fn of_nobody(process: u32) -> Self {
        let (end, ends) = oneshot::channel();
        let task = Task(tokio::spawn(async { drop(ends.await) }));
        Self { process: Some(process), orders: mpsc::channel(1).0, end, task }
    }

    /// The number of the process.
    pub(super) fn process(&self) -> Option<u32> {
        self.process
    }

    /// Kills the process and waits until it is gone, with all that it held.
    pub(super) async fn end(self) {
        let Self { end, mut task, .. } = self;
        // An error: it is gone already.
        let _ = end.send(());
        if timeout(GONE_WITHIN, &mut task.0).await.is_err() {
            tracing::warn!(process = self.process, "a killed worker is not gone yet");
        }
    }
}

/// Starts a worker. What happens to it comes through `events`.
pub(super) fn spawn(
    program: &Path,
    arguments: &[String],
    identity: Identity,
    Log { tag, hides_progress }: Log,
    events: mpsc::Sender<Event>,
) -> Result<Handle, SpawnError> {
    let failed = |source| SpawnError::Start { program: program.to_owned(), source };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0) // Ctrl-C is for naru, which then drains its workers
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let process = child.id();
    tracing::info!(replica = tag, process, "started a worker");
    let log = child.stderr.take();
    let log = log.map(|stderr| tokio::spawn(logs::forward(stderr, tag, hides_progress)));
    let (sender, orders) = mpsc::channel(member::ORDERS_MAX);
    let (end, ends) = oneshot::channel();
    let task = Task(tokio::spawn(attend(child, log, Teller { identity, events }, orders, ends)));
    Ok(Handle { process, orders: sender, end, task })
}

/// Follows a worker until its process is gone, by itself or because it `ends`.
async fn attend(
    mut child: Child,
    log: Option<JoinHandle<Option<LastWords>>>,
    teller: Teller,
    orders: mpsc::Receiver<Order>,
    ends: oneshot::Receiver<()>,
) {
    let stdout = child.stdout.take();
    let _open_until_the_end = child.stdin.take();
    let lives = async {
        tokio::select! {
            ended = child.wait() => ended,
            () = follow(stdout, &teller, orders) => child.wait().await,
        }
    };
    let ended = tokio::select! {
        ended = lives => ended,
        Ok(()) = ends => {
            // Whoever ends it expects no word of it. An error: it is gone.
            let _ = child.kill().await;
            return;
        }
    };
    // Its log ends with it, unless somebody else holds that open.
    let said = match log {
        Some(log) => timeout(LAST_WORDS_WITHIN, log).await.ok().and_then(Result::ok).flatten(),
        None => None,
    };
    teller.tell(What::Ended(failure(ended, said))).await;
}

struct Teller {
    identity: Identity,
    events: mpsc::Sender<Event>,
}

impl Teller {
    async fn tell(&self, what: What) {
        // Without a receiver the whole machine is going away.
        let _ = self.events.send(Event { from: self.identity.clone(), what }).await;
    }
}

fn failure(ended: std::io::Result<ExitStatus>, said: Option<LastWords>) -> WorkerFailure {
    match ended {
        Ok(status) if status.code() == Some(2) => match said {
            Some(LastWords { words, lacks_gpu: true, .. }) => WorkerFailure::NoUsableGpu(words),
            Some(LastWords { words, .. }) => WorkerFailure::Config(words),
            None => {
                let words = "the worker refused its arguments; its log says why";
                WorkerFailure::Config(words.to_owned())
            }
        },
        Ok(status) => WorkerFailure::Ended(format!("the worker ended: {status}")),
        Err(error) => WorkerFailure::Ended(format!("the worker was lost: {error}")),
    }
}

/// Where a worker listens: the one line it writes.
#[derive(Deserialize)]
struct Addresses {
    http: String,
    control: String,
}

/// Reads where the worker listens, then its reports for as long as it lives.
async fn follow(stdout: Option<ChildStdout>, teller: &Teller, orders: mpsc::Receiver<Order>) {
    let mut line = String::new();
    let Some(stdout) = stdout else { return };
    let mut reader = BufReader::new(stdout.take(FIRST_LINE_BYTES_MAX));
    if reader.read_line(&mut line).await.unwrap_or_default() == 0 {
        return;
    }
    let addresses: Addresses = match serde_json::from_str(&line) {
        Ok(addresses) => addresses,
        Err(error) => {
            tracing::error!(%error, "the worker did not say where it listens");
            return;
        }
    };
    let address = addresses.http.trim_start_matches("http://").trim_end_matches('/').to_owned();
    teller.tell(What::Listening { address }).await;
    let Ok(control) = Endpoint::from_shared(addresses.control) else { return };
    let tell = |heard| {
        teller.tell(match heard {
            Heard::Report(report) => What::Report(*report),
            Heard::Silent => What::Silent,
        })
    };
    member::follow(member::connection(control, None), orders, tell).await;
}
