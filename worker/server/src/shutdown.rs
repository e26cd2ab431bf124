//! How this process ends: drained after a signal, at once after a second one or when its parent
//! is gone.

use std::io::Read;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::http::Connections;
use crate::member::{Failure, Member, Phase};

/// After running answers were cut, time for their last event to reach the clients.
const CUT: Duration = Duration::from_secs(1);
/// After a failure or the word to drain, time for whoever follows the status to read of it.
const LAST_REPORT: Duration = Duration::from_millis(300);
/// Exit code when a second signal, or the parent's end, cuts everything short.
const CUT_SHORT: i32 = 1;

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on these signals do what this program says. Errors: the system refused.
    pub(crate) fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The first signal drains, the second ends the process.
    pub(crate) async fn obey(mut self, member: Arc<Member>) {
        self.next().await;
        tracing::info!("draining; a second signal exits at once");
        member.drain(None);
        self.next().await;
        tracing::warn!("exiting at once");
        process::exit(CUT_SHORT);
    }
}

/// Ends the process when standard input ends.
pub(crate) fn exit_with_stdin() {
    let wait = || {
        let mut buffer = [0; 256];
        // Whatever is written to us is thrown away; the end and an error are the end.
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        // Not a word: standard error was most likely read by the parent too, and writing to a pipe
        // that nobody reads would end this thread before the process.
        process::exit(CUT_SHORT);
    };
    std::thread::spawn(wait);
}

/// Returns when this member is done: drained, or failed and why.
pub(crate) async fn wait(member: &Member, connections: Connections) -> Result<(), Failure> {
    member.changes().ending().await;
    if let Phase::Failed(failure) = member.phase() {
        sleep(LAST_REPORT).await;
        return Err(failure);
    }
    let seconds = member.drain_seconds();
    let drained = async {
        let mut closed = std::pin::pin!(connections.closed());
        if timeout(Duration::from_secs(seconds.into()), &mut closed).await.is_ok() {
            return true;
        }
        if let Some(served) = member.served() {
            served.drive.cancel_all();
        }
        timeout(CUT, closed).await.is_ok()
    };
    let (drained, ()) = tokio::join!(drained, sleep(LAST_REPORT));
    if !drained {
        tracing::warn!(seconds, "some connections were still open");
    }
    tracing::info!("drained");
    match member.phase() {
        Phase::Failed(failure) => Err(failure),
        _ => Ok(()),
    }
}
