//! Progress where people wait: a bar on a terminal, log lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Log lines come no more often.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// How far something that takes a while is.
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    start: Instant,
    last_line: Instant,
}

impl Progress {
    /// Of `what` (`fetch`, `load`), over `total` bytes; 0 is not known yet.
    pub(crate) fn start(what: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, total));
        let now = Instant::now();
        let progress = Self { what, bar, total, done: 0, start: now, last_line: now };
        progress.line("started");
        progress
    }

    /// Takes the total, now that it is known.
    pub(crate) fn set_total(&mut self, total: u64) {
        self.total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// `done` bytes are done.
    pub(crate) fn at(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            self.line("going on");
        }
    }

    /// All is done.
    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
        self.line("finished");
    }

    fn line(&self, state: &str) {
        if self.bar.is_some() {
            return;
        }
        tracing::info!(
            progress = self.what,
            state,
            bytes_done = self.done,
            bytes_total = self.total,
            milliseconds = self.start.elapsed().as_millis() as u64,
            "progress"
        );
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    const TEMPLATE: &str = "{msg:>6} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta_precise}";
    let style = ProgressStyle::with_template(TEMPLATE);
    let bar = ProgressBar::new(total).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
