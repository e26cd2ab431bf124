//! One file: one process at a time, resumed where it broke off, checked, then renamed.
//!
//! Beside the target lie, while it is fetched, `.NAME.lock` (held by whoever fetches), `.NAME.part`
//! (what has come) and `.NAME.part.map` (which bytes those are, and of what).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Client;
use reqwest::header::HeaderValue;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::FetchProgress;
use super::digest;
use super::download::Download;
use super::error::FetchError;
use super::part::Paths;
use super::retries::Patience;

/// How often a process that waits for another's fetch looks, and every how many looks it reads how
/// far that is: the record of a large file is long.
const LOCK_PAUSE: Duration = Duration::from_millis(200);
const LOOKS_PER_READING: u32 = 10;

/// One file to fetch.
#[derive(Debug, Clone)]
pub(super) struct FileRequest {
    /// Where it is, in words for people: without any secret.
    pub(super) url: String,
    /// What is asked in its place, if that address is a secret itself.
    pub(super) signed: Option<String>,
    /// Not sent on to other hosts.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) target: PathBuf,
    pub(super) sha256: Option<String>,
    /// If known before.
    pub(super) size: Option<u64>,
    /// Whether what is there already may be of another digest: its address may mean other content.
    pub(super) may_differ: bool,
}

/// Has `request.target` be there and complete, and of the digest that was asked for.
pub(super) async fn file(
    client: &Client,
    request: &FileRequest,
    patience: &Patience,
    progress: &mut FetchProgress,
) -> Result<(), FetchError> {
    if found(request, progress).await? {
        return Ok(());
    }
    let paths = Paths::of(&request.target);
    let directory = request.target.parent().unwrap_or(Path::new("."));
    let failed = |source| FetchError::of_write(directory.to_owned(), source);
    fs::create_dir_all(directory).map_err(failed)?;
    let _lock = lock(&paths, progress).await?;
    if found(request, progress).await? {
        return Ok(());
    }
    Download { client, request, patience, paths: &paths }.run(progress).await
}

/// Whether the target is there. One of another digest is thrown away.
async fn found(request: &FileRequest, progress: &mut FetchProgress) -> Result<bool, FetchError> {
    let Ok(metadata) = fs::metadata(&request.target) else { return Ok(false) };
    if let Some(expected) = request.sha256.clone().filter(|_| request.may_differ) {
        let path = request.target.clone();
        let check = move || digest::check(&path, &expected);
        let checked = spawn_blocking(check).await.map_err(|_| FetchError::Ended)?;
        if let Err(FetchError::WrongDigest { .. }) = checked {
            tracing::warn!(url = request.url, "what was fetched before is something else");
            let removed = fs::remove_file(&request.target);
            removed.map_err(|source| FetchError::of_write(request.target.clone(), source))?;
            return Ok(false);
        }
        checked?;
    }
    progress.add(metadata.len());
    Ok(true)
}

/// Waits for the lock; it is given back when the file is dropped or the process dies. Meanwhile
/// the progress is that of whoever holds it.
async fn lock(paths: &Paths, progress: &mut FetchProgress) -> Result<File, FetchError> {
    let failed = |source| FetchError::of_write(paths.lock.clone(), source);
    let file = OpenOptions::new().create(true).append(true).open(&paths.lock).map_err(failed)?;
    let before = progress.done();
    let mut looks = 0_u32;
    loop {
        match file.try_lock() {
            Ok(()) => {
                progress.set(before);
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) => {
                if looks == 0 {
                    tracing::info!("another process is fetching the same file: waiting for it");
                }
                let is_reading = looks.is_multiple_of(LOOKS_PER_READING);
                if let Some((done, total)) = is_reading.then(|| paths.noted()).flatten() {
                    progress.learn_total(total);
                    progress.set(before + done);
                }
                sleep(LOCK_PAUSE).await;
                looks += 1;
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}
