//! What is known of a file while it is fetched, kept beside it: `.NAME.part.map`.
//!
//! The first line says of which version the bytes are and how many there will be, each other line
//! which bytes are in the part file. A line is written after its bytes, so that a process may be
//! killed at any moment: a line that it did not finish is none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::spans::Spans;

/// Of what the bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Whole {
    /// The server's name for the version; `None`: it gives none, and a digest has to do.
    pub(super) version: Option<String>,
    pub(super) bytes: u64,
    /// Which run of which machine wrote them: after a crash of that machine lines may be there
    /// whose bytes are not.
    boot: String,
}

impl Whole {
    pub(super) fn new(version: Option<String>, bytes: u64) -> Self {
        Self { version, bytes, boot: boot() }
    }

    /// Whether the machine has run on since the bytes were written.
    pub(super) fn is_of_this_boot(&self) -> bool {
        self.boot == boot()
    }
}

/// The record of one part file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    pub(super) whole: Whole,
}

impl Journal {
    /// Begins a record of nothing yet.
    pub(super) fn create(path: &Path, whole: Whole) -> io::Result<Self> {
        let mut line = serde_json::to_vec(&whole)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create_new(true).append(true).open(path)?;
        file.write_all(&line)?;
        Ok(Self { file, whole })
    }

    /// Goes on with the record at `path`, and says what is there; `None`: it cannot be read.
    pub(super) fn reopen(path: &Path) -> Option<(Self, Spans)> {
        let (whole, spans) = look(path)?;
        let mut file = OpenOptions::new().append(true).open(path).ok()?;
        // Ends a line that was not finished, so that it says nothing.
        file.write_all(b"?\n").ok()?;
        Some((Self { file, whole }, spans))
    }

    /// Notes that these bytes are there.
    pub(super) fn note(&mut self, bytes: Range<u64>) -> io::Result<()> {
        let line = format!("{} {}\n", bytes.start, bytes.end);
        self.file.write_all(line.as_bytes())
    }
}

/// What the record at `path` says, whoever writes it.
pub(super) fn look(path: &Path) -> Option<(Whole, Spans)> {
    let text = fs::read_to_string(path).ok()?;
    let (first, rest) = text.split_once('\n')?;
    let whole: Whole = serde_json::from_str(first).ok()?;
    let mut spans = Spans::default();
    // The last line counts only with its end.
    let finished = rest.rsplit_once('\n').map_or("", |(lines, _)| lines);
    for line in finished.lines() {
        let (start, end) = line.split_once(' ').unwrap_or_default();
        let (Ok(start), Ok(end)) = (start.parse(), end.parse()) else { continue };
        if end <= whole.bytes {
            spans.insert(start..end);
        }
    }
    Some((whole, spans))
}

/// A name for this run of this machine, on systems that have one.
fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_cut_anywhere_claims_nothing_that_was_not_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("map");
        let whole = Whole::new(Some("\"v1\"".to_owned()), 3000);
        let mut journal = Journal::create(&path, whole.clone()).expect("written");
        let parts = [0..1000, 2000..2222, 1000..1500];
        parts.iter().for_each(|part| journal.note(part.clone()).expect("noted"));
        let text = fs::read(&path).expect("readable");
        let header = text.iter().position(|&byte| byte == b'\n').expect("a first line") + 1;
        for cut in 0..=text.len() {
            fs::write(&path, &text[..cut]).expect("written");
            let found = look(&path);
            if cut < header {
                assert!(found.is_none(), "cut at {cut}");
                continue;
            }
            let (read, spans) = found.expect("a whole first line");
            assert_eq!(read, whole);
            let lines = text[header..cut].iter().filter(|&&byte| byte == b'\n').count();
            let mut expected = Spans::default();
            parts[..lines].iter().for_each(|part| expected.insert(part.clone()));
            assert_eq!(spans, expected, "cut at {cut}");
            let (mut again, _) = Journal::reopen(&path).expect("goes on");
            again.note(2500..2600).expect("noted");
            expected.insert(2500..2600);
            assert_eq!(look(&path).expect("readable").1, expected, "cut at {cut}, and on");
        }
    }
}
