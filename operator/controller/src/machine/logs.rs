//! The log lines of workers, passed on under the replica's name.

use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStderr;

use crate::last_words::{self, LastWords};

/// Longest line that is passed on whole; the rest of a longer one becomes lines of its own.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// Passes every line on until the worker closes its standard error; returns its last error.
pub(super) async fn forward(
    stderr: ChildStderr,
    replica: String,
    hides_progress: bool,
) -> Option<LastWords> {
    let mut last = None;
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(LINE_BYTES_MAX);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return last,
            Ok(_) => {
                let line = String::from_utf8_lossy(&line);
                last = error(&line).or(last);
                pass_on(line.trim_end(), &replica, hides_progress);
            }
        }
    }
}

/// The error that a line of the log tells; other text is for people.
fn error(line: &str) -> Option<LastWords> {
    last_words::of(line).filter(|_| line.starts_with('{'))
}

fn pass_on(line: &str, replica: &str, hides_progress: bool) {
    if line.is_empty() {
        return;
    }
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        tracing::warn!(target: "worker", replica, "{line}");
        return;
    };
    let mut text = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (level, message) = (text("level"), text("message"));
    text("timestamp");
    if hides_progress && fields.contains_key("progress") {
        return; // the terminal shows it better
    }
    let details = details(&fields);
    match level.as_str() {
        "ERROR" => tracing::error!(target: "worker", replica, details, "{message}"),
        "WARN" => tracing::warn!(target: "worker", replica, details, "{message}"),
        "INFO" => tracing::info!(target: "worker", replica, details, "{message}"),
        _ => tracing::debug!(target: "worker", replica, details, "{message}"),
    }
}

/// The other fields of the line, as `name=value`.
fn details(fields: &Map<String, Value>) -> Option<String> {
    let words: Vec<_> = fields
        .iter()
        .filter(|(name, _)| *name != "target")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}
