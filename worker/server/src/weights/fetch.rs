//! One file over HTTP: one process at a time, resumed where it broke off, checked, then renamed.
//!
//! Beside the target lie, while it is fetched, `.NAME.lock` (held by whoever fetches), `.NAME.part`
//! (what has come) and `.NAME.part.tag` (the server's name for the version that it is part of).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Client, Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::FetchProgress;
use super::digest::{self, hex};
use super::error::FetchError;

/// How often and how soon failed attempts are repeated.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// Attempts in a row that bring nothing.
    pub(crate) attempts: u32,
    /// Before the second attempt; doubled before each later one.
    pub(crate) first_pause: Duration,
}

const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often a process that waits for another's fetch looks.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 4, first_pause: Duration::from_millis(500) }
    }
}

/// The failed attempts at one thing.
pub(super) struct Retries<'a> {
    patience: &'a Patience,
    fruitless: u32,
}

impl<'a> Retries<'a> {
    /// None yet.
    pub(super) fn new(patience: &'a Patience) -> Self {
        Self { patience, fruitless: 0 }
    }

    /// Returns when the next attempt may be made. Errors: what failed will not pass, or patience
    /// is at its end.
    pub(super) async fn pause(&mut self, failure: Failure) -> Result<(), FetchError> {
        let Failure { error, progressed } = failure;
        self.fruitless = if progressed { 1 } else { self.fruitless + 1 };
        if !error.is_transient() || self.fruitless >= self.patience.attempts {
            return Err(error);
        }
        let doublings = (self.fruitless - 1).min(16);
        let pause = self.patience.first_pause.saturating_mul(1 << doublings).min(PAUSE_MAX);
        tracing::warn!(%error, milliseconds = pause.as_millis() as u64, "trying again");
        sleep(pause).await;
        Ok(())
    }
}

/// A failed attempt, and whether it brought us further.
pub(super) struct Failure {
    pub(super) error: FetchError,
    pub(super) progressed: bool,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self { error, progressed: false }
    }
}

/// One file to fetch.
#[derive(Debug, Clone)]
pub(super) struct FileRequest {
    pub(super) url: String,
    /// For `Authorization`; not sent on to other hosts.
    pub(super) token: Option<String>,
    pub(super) target: PathBuf,
    pub(super) sha256: Option<String>,
    /// If known before.
    pub(super) size: Option<u64>,
}

/// Has `request.target` be there and complete.
pub(super) async fn file(
    client: &Client,
    request: &FileRequest,
    patience: &Patience,
    progress: &mut FetchProgress,
) -> Result<(), FetchError> {
    if let Ok(found) = fs::metadata(&request.target) {
        progress.add(found.len());
        return Ok(());
    }
    let directory = request.target.parent().unwrap_or(Path::new("."));
    let failed = |source| FetchError::of_write(directory.to_owned(), source);
    fs::create_dir_all(directory).map_err(failed)?;
    let _lock = lock(&beside(&request.target, "lock")).await?;
    if let Ok(found) = fs::metadata(&request.target) {
        progress.add(found.len());
        return Ok(());
    }
    let before = progress.done();
    let mut retries = Retries::new(patience);
    loop {
        match Attempt::new(request, before, progress).run(client).await {
            Ok(()) => return Ok(()),
            Err(failure) => retries.pause(failure).await?,
        }
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

/// Waits for the lock at `path`; it is given back when the file is dropped or the process dies.
async fn lock(path: &Path) -> Result<File, FetchError> {
    let failed = |source| FetchError::of_write(path.to_owned(), source);
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    tracing::info!("another process is fetching the same file: waiting for it");
                    told = true;
                }
                sleep(LOCK_PAUSE).await;
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

struct Attempt<'a> {
    request: &'a FileRequest,
    /// Bytes of earlier files.
    before: u64,
    progress: &'a mut FetchProgress,
    part: PathBuf,
    tag: PathBuf,
}

/// The part file and what is known of it.
struct Part {
    file: File,
    bytes: u64,
    hasher: Option<Sha256>,
}

impl<'a> Attempt<'a> {
    fn new(request: &'a FileRequest, before: u64, progress: &'a mut FetchProgress) -> Self {
        let part = beside(&request.target, "part");
        let tag = beside(&request.target, "part.tag");
        Self { request, before, progress, part, tag }
    }

    async fn run(mut self, client: &Client) -> Result<(), Failure> {
        let (mut response, mut part, total) = self.ask(client).await?;
        let start = part.bytes;
        self.progress.set(self.before + start);
        let broke_off = self.receive(&mut response, &mut part).await.err();
        let progressed = part.bytes > start;
        let fail = |error| Err(Failure { error, progressed });
        if let Some(error) = broke_off {
            return fail(error);
        }
        if let Some(expected) = total.filter(|&total| total != part.bytes) {
            let url = self.request.url.clone();
            return fail(FetchError::Short { url, expected, actual: part.bytes });
        }
        self.finish(part).map_err(|error| Failure { error, progressed })
    }

    /// Asks for the rest of the file, or for all of it if there is no rest to be had.
    async fn ask(&self, client: &Client) -> Result<(Response, Part, Option<u64>), FetchError> {
        let have = fs::metadata(&self.part).map_or(0, |found| found.len());
        let tag = fs::read_to_string(&self.tag).ok().filter(|tag| have > 0 && !tag.is_empty());
        let response = self.send(client, tag.as_deref().map(|tag| (tag, have))).await?;
        let headers = response.headers();
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = content_range(headers);
            if let Some((_, total)) = range.filter(|&(start, _)| start == have) {
                return Ok((response, self.reopen(have)?, Some(total)));
            }
        }
        if response.status() == StatusCode::OK {
            let total = response.content_length().or(self.request.size);
            let part = self.create(headers)?;
            return Ok((response, part, total));
        }
        // A range that cannot be had: what we have is of no use.
        let refused = [StatusCode::RANGE_NOT_SATISFIABLE, StatusCode::PARTIAL_CONTENT];
        if tag.is_some() && refused.contains(&response.status()) {
            self.forget()?;
            let url = self.request.url.clone();
            return Err(FetchError::Short { url, expected: 0, actual: have });
        }
        Err(FetchError::of_status(&self.request.url, response.status()))
    }

    async fn send(
        &self,
        client: &Client,
        rest: Option<(&str, u64)>,
    ) -> Result<Response, FetchError> {
        let mut builder = client.get(&self.request.url);
        if let Some(token) = &self.request.token {
            builder = builder.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some((tag, have)) = rest {
            builder = builder.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, tag);
        }
        builder
            .send()
            .await
            .map_err(|source| FetchError::of_network(&self.request.url, source.without_url()))
    }

    fn create(&self, headers: &HeaderMap) -> Result<Part, FetchError> {
        let file = File::create(&self.part).map_err(|source| self.unwritable(source))?;
        // Without a name for the version there is no safe way to ask for the rest of it.
        let tag = version(headers).unwrap_or_default();
        fs::write(&self.tag, tag).map_err(|source| self.unwritable(source))?;
        let hasher = self.request.sha256.is_some().then(Sha256::new);
        Ok(Part { file, bytes: 0, hasher })
    }

    fn reopen(&self, bytes: u64) -> Result<Part, FetchError> {
        let failed = |source| self.unwritable(source);
        let file = OpenOptions::new().append(true).open(&self.part).map_err(failed)?;
        let wanted = self.request.sha256.is_some();
        let hasher = wanted.then(|| digest::of_file(&self.part)).transpose().map_err(failed)?;
        tracing::info!(bytes, "going on where an earlier fetch broke off");
        Ok(Part { file, bytes, hasher })
    }

    async fn receive(
        &mut self,
        response: &mut Response,
        part: &mut Part,
    ) -> Result<(), FetchError> {
        if let Some(rest) = response.content_length() {
            self.progress.learn_total(part.bytes + rest);
        }
        loop {
            let chunk = response.chunk().await;
            let chunk = chunk.map_err(|source| {
                FetchError::of_network(&self.request.url, source.without_url())
            })?;
            let Some(chunk) = chunk else { return Ok(()) };
            part.file.write_all(&chunk).map_err(|source| self.unwritable(source))?;
            if let Some(hasher) = &mut part.hasher {
                hasher.update(&chunk);
            }
            part.bytes += chunk.len() as u64;
            self.progress.set(self.before + part.bytes);
        }
    }

    fn finish(&self, part: Part) -> Result<(), FetchError> {
        if let (Some(hasher), Some(expected)) = (part.hasher, &self.request.sha256) {
            let actual = hex(&hasher.finalize());
            if actual != *expected {
                self.forget()?;
                let (path, expected) = (self.request.target.clone(), expected.clone());
                return Err(FetchError::WrongDigest { path, expected, actual });
            }
        }
        let done = part.file.sync_all().and_then(|()| fs::rename(&self.part, &self.request.target));
        done.map_err(|source| self.unwritable(source))?;
        // Only a leftover if it stays.
        let _ = fs::remove_file(&self.tag);
        Ok(())
    }

    /// Throws away what has come.
    fn forget(&self) -> Result<(), FetchError> {
        fs::remove_file(&self.tag).map_err(|source| self.unwritable(source))?;
        fs::remove_file(&self.part).map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: std::io::Error) -> FetchError {
        FetchError::of_write(self.part.clone(), source)
    }
}

/// What the server calls this version of the file; only a strong name allows to ask for a part.
fn version(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// First byte and length of the whole, of `bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()?))
}
