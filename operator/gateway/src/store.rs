//! The last snapshot on disk, so that a gateway that starts while nobody publishes can serve.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use naru_protocol::{InvalidSnapshot, Snapshot};

const FILE: &str = "snapshot.json";
/// It names tenants and holds the digests of their keys: for the owner alone.
const MODE: u32 = 0o600;
/// Longer than any snapshot that passes its check is likely to be.
const BYTES_MAX: u64 = 1 << 30;

/// Why the disk was of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("reading {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} holds no snapshot")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} holds a snapshot that breaks a rule")]
    Invalid {
        path: PathBuf,
        #[source]
        source: InvalidSnapshot,
    },
    #[error("writing {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The folder in which the last snapshot is kept.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The snapshot of an earlier run and how old it is; `None`: there is none.
    pub(crate) fn load(&self) -> Result<Option<(Snapshot, Duration)>, StoreError> {
        let path = self.folder.join(FILE);
        let failed = |source| StoreError::Read { path: path.clone(), source };
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if metadata.len() > BYTES_MAX {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        let bytes = fs::read(&path).map_err(failed)?;
        let parsed = serde_json::from_slice::<Snapshot>(&bytes);
        let snapshot = parsed.map_err(|source| StoreError::Parse { path: path.clone(), source })?;
        if let Err(source) = snapshot.check() {
            return Err(StoreError::Invalid { path, source });
        }
        let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some((snapshot, written.elapsed().unwrap_or_default())))
    }

    /// Replaces what is kept, at once and for good: a crash leaves the old or the new, whole.
    pub(crate) fn save(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let path = self.folder.join(FILE);
        let write = || {
            let bytes = serde_json::to_vec(snapshot)?;
            let temporary = self.folder.join(format!("{FILE}.new"));
            fs::create_dir_all(&self.folder)?;
            write_whole(&temporary, &bytes)?;
            fs::rename(&temporary, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| StoreError::Write { path: path.clone(), source })
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?; // one that a crash left may have others
    file.write_all(bytes)?;
    file.sync_all()
}
