//! The one place that maps files into memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

/// A file's bytes, read by the system as they are touched.
#[derive(Debug)]
pub(crate) struct MappedFile {
    /// An empty file cannot be mapped.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps the file at `path` for reading. Errors: the system's.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the bytes are only read. Weights are written once, under another name, and then
        // moved into place, so nobody changes or cuts a file that is mapped; whoever does so by
        // hand ends this process with SIGBUS, not with wrong memory.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map: Some(map) })
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Takes the pages of `range` out of this process's memory; they are read again when they are
    /// touched. What has been laid out elsewhere need not be held twice. A system that cannot keeps
    /// them.
    pub(crate) fn forget(&self, range: Range<usize>) {
        if let Some(map) = &self.map {
            // SAFETY: the map is shared with the file and never written, so a page that is touched
            // again, by whatever borrow of the bytes, holds the file's same bytes.
            let forgotten = unsafe {
                map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
            };
            drop(forgotten);
        }
    }
}
