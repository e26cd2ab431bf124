//! Ctrl-C and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a second signal, which ends everything at once, is told as: failed.
const ENDED_AT_ONCE: i32 = 1;

/// The two signals that ask a process to end.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next of either.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// From now on the next signal ends the process without waiting for anything.
    pub(crate) fn end_at_the_next(mut self) {
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(ENDED_AT_ONCE);
        });
    }
}
