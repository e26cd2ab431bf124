//! What has come of a file: the part file beside its target, and the record of what is in it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, mpsc};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::error::FetchError;
use super::journal::{self, Journal, Whole};
use super::spans::Spans;

/// Where a file goes, and what lies beside it meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) target: PathBuf,
    pub(super) lock: PathBuf,
    part: PathBuf,
    map: PathBuf,
}

impl Paths {
    pub(super) fn of(target: &Path) -> Self {
        Self {
            target: target.to_owned(),
            lock: beside(target, "lock"),
            part: beside(target, "part"),
            map: beside(target, "part.map"),
        }
    }

    /// Bytes that are here and bytes in all, as whoever fetches now has noted.
    pub(super) fn noted(&self) -> Option<(u64, u64)> {
        journal::look(&self.map).map(|(whole, spans)| (spans.bytes(), whole.bytes))
    }

    /// Throws away what has come.
    pub(super) fn forget(&self) -> Result<(), FetchError> {
        // The record first: a part without one is nothing.
        for path in [&self.map, &self.part] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FetchError::of_write(path.clone(), error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// `.NAME.extension` beside `target`; hidden, so that it is no part of a model's directory.
fn beside(target: &Path, extension: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".");
    name.push(extension);
    target.with_file_name(name)
}

/// A part file that bytes are written to.
#[derive(Debug)]
pub(super) struct Part {
    paths: Paths,
    file: File,
    /// `None`: nobody knows how much there will be.
    whole: Option<Whole>,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    spans: Spans,
    journal: Option<Journal>,
    /// Told how much of the beginning is there.
    prefixes: Option<mpsc::Sender<u64>>,
}

impl Part {
    /// Goes on with what an earlier process left; `None`: that is nothing one can build on. With
    /// `has_digest` the end is checked, so that also what a crashed machine left is tried.
    pub(super) fn reopen(paths: &Paths, has_digest: bool) -> Option<Self> {
        let (journal, spans) = Journal::reopen(&paths.map)?;
        let whole = journal.whole.clone();
        let file = OpenOptions::new().read(true).write(true).open(&paths.part).ok()?;
        let is_usable = (has_digest || (whole.version.is_some() && whole.is_of_this_boot()))
            && file.metadata().ok()?.len() == whole.bytes;
        is_usable.then(|| {
            tracing::info!(bytes = spans.bytes(), "going on where an earlier fetch broke off");
            let record = Record { spans, journal: Some(journal), prefixes: None };
            Self { paths: paths.clone(), file, whole: Some(whole), record: Mutex::new(record) }
        })
    }

    /// Begins anew. Errors: the disk has no room for all of it, or does not take it.
    pub(super) fn create(paths: &Paths, whole: Option<Whole>) -> Result<Self, FetchError> {
        paths.forget()?;
        let failed = |source| FetchError::of_write(paths.part.clone(), source);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&paths.part);
        let file = file.map_err(failed)?;
        let mut journal = None;
        if let Some(whole) = &whole {
            if let Err(source) = reserve(&file, whole.bytes) {
                let _ = fs::remove_file(&paths.part);
                return Err(match FetchError::of_write(paths.part.clone(), source) {
                    FetchError::DiskFull { path, source, .. } => {
                        FetchError::DiskFull { path, needed: Some(whole.bytes), source }
                    }
                    other => other,
                });
            }
            journal = Some(Journal::create(&paths.map, whole.clone()).map_err(failed)?);
        }
        let record = Record { spans: Spans::default(), journal, prefixes: None };
        Ok(Self { paths: paths.clone(), file, whole, record: Mutex::new(record) })
    }

    /// Bytes in all, if that is known.
    pub(super) fn total(&self) -> Option<u64> {
        self.whole.as_ref().map(|whole| whole.bytes)
    }

    /// The server's name for the version, if it gave one.
    pub(super) fn version(&self) -> Option<&str> {
        self.whole.as_ref()?.version.as_deref()
    }

    /// Bytes that are here.
    pub(super) fn bytes(&self) -> u64 {
        self.record().spans.bytes()
    }

    /// What is missing, in order; nothing where nobody knows how much there will be.
    pub(super) fn missing(&self, piece: u64) -> Vec<Range<u64>> {
        self.total().map_or(Vec::new(), |total| self.record().spans.missing(total, piece))
    }

    /// Writes bytes to their place, and notes them.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), FetchError> {
        let failed = |source| FetchError::of_write(self.paths.part.clone(), source);
        self.file.write_all_at(bytes, at).map_err(failed)?;
        let mut record = self.record();
        let written = at..at + bytes.len() as u64;
        if let Some(journal) = &mut record.journal {
            journal.note(written.clone()).map_err(failed)?;
        }
        record.spans.insert(written);
        record.tell();
        Ok(())
    }

    /// From now on tells how much of the beginning is there, until `done`.
    pub(super) fn follow(&self) -> (PathBuf, mpsc::Receiver<u64>) {
        let (sender, receiver) = mpsc::channel();
        let mut record = self.record();
        record.prefixes = Some(sender);
        record.tell();
        (self.paths.part.clone(), receiver)
    }

    /// Nothing more will be written.
    pub(super) fn done(&self) {
        self.record().prefixes = None;
    }

    /// Has the target be this file.
    pub(super) fn publish(&self) -> Result<(), FetchError> {
        let Paths { target, part, map, .. } = &self.paths;
        let done = self.file.sync_all().and_then(|()| fs::rename(part, target));
        done.map_err(|source| FetchError::of_write(target.clone(), source))?;
        // Only a leftover if it stays.
        let _ = fs::remove_file(map);
        Ok(())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("nobody panics while holding it")
    }
}

impl Record {
    fn tell(&self) {
        if let Some(prefixes) = &self.prefixes {
            // Nobody listens any more: the digest's reader has failed, and says so itself.
            let _ = prefixes.send(self.spans.prefix());
        }
    }
}

/// Takes the room for all of the file at once, so that a full disk is known before hours of
/// fetching.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::NOTSUP | Errno::NOSYS) => file.set_len(bytes),
        reserved => Ok(reserved?),
    }
}
