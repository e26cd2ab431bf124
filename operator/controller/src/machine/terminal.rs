//! One line on a terminal that says how far workers are, while somebody waits.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use naru_plan::{Bytes, Phase};

/// What is on the line.
pub(super) struct Terminal {
    is_terminal: bool,
    workers: BTreeMap<String, String>,
}

impl Terminal {
    pub(super) fn new(is_terminal: bool) -> Self {
        Self { is_terminal, workers: BTreeMap::new() }
    }

    /// A replica is at `phase` now.
    pub(super) fn show(&mut self, replica: &str, phase: &Phase) {
        match words(phase) {
            Some(words) => self.workers.insert(replica.to_owned(), words),
            None => self.workers.remove(replica),
        };
        self.draw();
    }

    /// A replica does not exist any more.
    pub(super) fn gone(&mut self, replica: &str) {
        self.workers.remove(replica);
        self.draw();
    }

    /// Erases the line (ANSI EL 2) and writes it anew.
    fn draw(&mut self) {
        if !self.is_terminal {
            return;
        }
        let mut line = String::new();
        for (replica, words) in &self.workers {
            let gap = if line.is_empty() { "" } else { "   " };
            let _ = write!(line, "{gap}{replica} {words}");
        }
        // A terminal that went away is no reason to stop.
        let mut stderr = std::io::stderr().lock();
        let _ = write!(stderr, "\r\x1b[2K{line}");
        let _ = stderr.flush();
    }
}

/// `None` when there is nothing to wait for.
fn words(phase: &Phase) -> Option<String> {
    match phase {
        Phase::Silent { .. } => Some("starting".to_owned()),
        Phase::Fetching { done, total: None } => Some(format!("fetching {}", mebibytes(*done))),
        Phase::Fetching { done, total: Some(total) } => {
            let percent = done.0.saturating_mul(100) / total.0.max(1);
            let (done, total) = (mebibytes(*done), mebibytes(*total));
            Some(format!("fetching {percent:>3} % ({done} of {total})"))
        }
        Phase::Loading | Phase::Apart { .. } => Some("loading".to_owned()),
        Phase::Pending { .. } => Some("waiting".to_owned()),
        Phase::Ready | Phase::Stopped { .. } => None,
    }
}

fn mebibytes(bytes: Bytes) -> String {
    format!("{} MiB", bytes.0 >> 20)
}

#[cfg(test)]
mod tests {
    use naru_plan::Moment;

    use super::*;

    #[track_caller]
    fn check(phase: &Phase, expected: Option<&str>) {
        assert_eq!(words(phase).as_deref(), expected);
    }

    #[test]
    fn what_is_said() {
        let (done, total) = (Bytes(50 << 20), Some(Bytes(200 << 20)));
        check(&Phase::Fetching { done, total }, Some("fetching  25 % (50 MiB of 200 MiB)"));
        check(&Phase::Fetching { done, total: None }, Some("fetching 50 MiB"));
        check(&Phase::Silent { since: Moment(0) }, Some("starting"));
        check(&Phase::Ready, None);
    }
}
