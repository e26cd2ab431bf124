//! The folder that belongs to one running `naru up`.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made or opened.
    #[error("preparing the data directory {path}")]
    Prepare {
        /// The folder or the file in it.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("another naru up is running with the data directory {path}; give this one --data-dir")]
    Taken {
        /// The folder.
        path: PathBuf,
    },
}

/// A data directory that is ours until this is dropped, however the process ends.
#[derive(Debug)]
pub struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes the folder if need be and locks it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Prepare { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        let options = File::options().create(true).write(true).truncate(false).clone();
        let lock = options.open(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::Taken { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// `$NARU_CACHE_DIR`, else `$XDG_CACHE_HOME/naru`, else `~/.cache/naru`; in it, `up`.
    pub fn default_path(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
        let cache = variable("NARU_CACHE_DIR")
            .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("naru")))
            .or_else(|| Some(variable("HOME")?.join(".cache/naru")));
        Some(cache?.join("up"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Taken { .. })));
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn defaults() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|(n, v)| (n.to_string(), PathBuf::from(v))).collect();
            DataDir::default_path(move |name| {
                set.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
            })
        };
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.cache/naru/up".into()));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/naru/up".into()));
        assert_eq!(
            with(&[("XDG_CACHE_HOME", "/x"), ("NARU_CACHE_DIR", "/n")]),
            Some("/n/up".into())
        );
        assert_eq!(with(&[]), None);
    }
}
