//! Logs on standard error: for people on a terminal, one JSON object a line otherwise.

use std::io::{self, IsTerminal, Stderr, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Sets logging up. `NARU_LOG` says how much (`debug`, `naru_gateway=debug`); default: info.
pub(crate) fn init() {
    let filter = EnvFilter::try_from_env("NARU_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A log that nobody reads any more is no reason to fail.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    if io::stderr().is_terminal() {
        builder.compact().with_target(false).with_writer(OverProgress).init();
    } else {
        let builder = builder.json().flatten_event(true).with_writer(io::stderr);
        builder.with_current_span(false).with_span_list(false).init();
    }
}

/// Erases the progress line before a log line is written over it.
struct OverProgress;

impl MakeWriter<'_> for OverProgress {
    type Writer = Stderr;

    fn make_writer(&self) -> Stderr {
        let mut stderr = io::stderr();
        // A terminal that went away is no reason to stop.
        let _ = stderr.write_all(b"\r\x1b[2K");
        stderr
    }
}
