//! One file over HTTP, by several connections, into its part file.
//!
//! The answer to a request for the first piece says how large the file is and which version of it
//! this is; each connection then takes the next piece that is missing. Another version in between
//! means: all over again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use reqwest::header::{
    AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Client, Response, StatusCode};
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::FetchError;
use super::fetch::FileRequest;
use super::journal::Whole;
use super::part::{Part, Paths};
use super::retries::{Failure, Patience, Retries, patiently};
use super::{FetchProgress, digest};

/// Connections to one server at a time.
const CONNECTIONS: usize = 8;
/// What one request asks for: enough to be worth asking, little enough to share the work.
const PIECE_BYTES_MIN: u64 = 4 << 20;
const PIECE_BYTES_MAX: u64 = 64 << 20;
const PIECES_PER_CONNECTION: u64 = 8;
/// What is written at once; a process that is killed has lost at most this on each connection.
const WRITE_BYTES: usize = 1 << 20;
/// How often a file may change while it is fetched.
const VERSIONS_MAX: u32 = 4;

/// The fetching of one file.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) request: &'a FileRequest,
    pub(super) patience: &'a Patience,
    pub(super) paths: &'a Paths,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Whole,
    /// The server has another version now, or cannot give the rest of this one.
    Changed,
}

/// An answer that has begun to come.
struct Incoming {
    response: Response,
    range: Range<u64>,
}

/// What the connections share.
struct Fill<'a> {
    part: Arc<Part>,
    queue: Mutex<VecDeque<Range<u64>>>,
    progress: Mutex<&'a mut FetchProgress>,
    /// Bytes that came over any connection.
    came: AtomicU64,
}

impl Download<'_> {
    /// Fetches what is missing, checks it, and has the target be it.
    pub(super) async fn run(&self, progress: &mut FetchProgress) -> Result<(), FetchError> {
        let before = progress.done();
        for _ in 0..VERSIONS_MAX {
            progress.set(before);
            let has_digest = self.request.sha256.is_some();
            let (part, first) = match Part::reopen(self.paths, has_digest) {
                Some(part) => (part, None),
                None => {
                    let (part, first) = patiently(self.patience, || self.begin()).await?;
                    (part, Some(first))
                }
            };
            let part = Arc::new(part);
            let hashing = has_digest.then(|| {
                let (path, prefixes) = part.follow();
                spawn_blocking(move || digest::along(&path, &prefixes))
            });
            let outcome = self.fill(&part, first, progress).await?;
            part.done();
            if outcome == Outcome::Whole {
                return self.finish(part, hashing).await;
            }
            tracing::warn!(url = self.request.url, "the file has changed: fetching all of it anew");
            self.paths.forget()?;
        }
        Err(FetchError::Changing { url: self.request.url.clone() })
    }

    async fn finish(
        &self,
        part: Arc<Part>,
        hashing: Option<JoinHandle<Result<String, FetchError>>>,
    ) -> Result<(), FetchError> {
        if let (Some(hashing), Some(expected)) = (hashing, &self.request.sha256) {
            let actual = hashing.await.map_err(|_| FetchError::Ended)??;
            if actual != *expected {
                self.paths.forget()?;
                let (path, expected) = (self.request.target.clone(), expected.clone());
                return Err(FetchError::WrongDigest { path, expected, actual });
            }
        }
        spawn_blocking(move || part.publish()).await.map_err(|_| FetchError::Ended)?
    }

    /// Asks for the first piece, and learns from the answer what there is.
    async fn begin(&self) -> Result<(Part, Incoming), FetchError> {
        let response = self.send(Some(0..PIECE_BYTES_MIN), None).await?;
        let headers = response.headers();
        let version = version(headers).map(str::to_owned);
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let is_safe = version.is_some() || self.request.sha256.is_some();
            let range = content_range(headers).filter(|(range, _)| is_safe && range.start == 0);
            if let Some((range, total)) = range {
                self.expect(total)?;
                let part = Part::create(self.paths, Some(Whole::new(version, total)))?;
                return Ok((part, Incoming { response, range }));
            }
        }
        // Without a name for the version, or ranges one can rely on, it comes in one piece.
        let response = match response.status() {
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.send(None, None).await?
            }
            _ => response,
        };
        if response.status() != StatusCode::OK {
            return Err(FetchError::of_status(&self.request.url, response.status()));
        }
        let total = response.content_length();
        total.map_or(Ok(()), |total| self.expect(total))?;
        let part = Part::create(self.paths, total.map(|total| Whole::new(version, total)))?;
        Ok((part, Incoming { response, range: 0..total.unwrap_or(u64::MAX) }))
    }

    /// Errors: the file is not as large as its publisher says.
    fn expect(&self, actual: u64) -> Result<(), FetchError> {
        match self.request.size {
            Some(expected) if expected != actual => {
                let url = self.request.url.clone();
                Err(FetchError::WrongSize { url, expected, actual })
            }
            _ => Ok(()),
        }
    }

    async fn fill(
        &self,
        part: &Arc<Part>,
        first: Option<Incoming>,
        progress: &mut FetchProgress,
    ) -> Result<Outcome, FetchError> {
        let total = part.total().unwrap_or(0);
        progress.learn_total(total);
        progress.add(part.bytes());
        let piece = (total / (CONNECTIONS as u64 * PIECES_PER_CONNECTION))
            .clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
        let coming = first.as_ref().map_or(0..0, |first| first.range.clone());
        let mut missing = part.missing(piece);
        // A first answer is from the beginning of an empty file.
        missing.iter_mut().for_each(|range| range.start = range.start.max(coming.end));
        missing.retain(|range| !range.is_empty());
        let fill = Fill {
            part: Arc::clone(part),
            queue: Mutex::new(missing.into()),
            progress: Mutex::new(progress),
            came: AtomicU64::new(0),
        };
        let mut connections = FuturesUnordered::new();
        connections.push(self.connection(&fill, first));
        for _ in 1..CONNECTIONS {
            connections.push(self.connection(&fill, None));
        }
        while let Some(outcome) = connections.next().await {
            if outcome? == Outcome::Changed {
                return Ok(Outcome::Changed);
            }
        }
        Ok(Outcome::Whole)
    }

    async fn connection(
        &self,
        fill: &Fill<'_>,
        mut first: Option<Incoming>,
    ) -> Result<Outcome, FetchError> {
        loop {
            let first = first.take();
            let range = first.as_ref().map(|first| first.range.clone()).or_else(|| fill.next());
            let Some(range) = range else { return Ok(Outcome::Whole) };
            if self.piece(fill, range, first).await? == Outcome::Changed {
                return Ok(Outcome::Changed);
            }
        }
    }

    /// Fetches one piece, as often as it takes.
    async fn piece(
        &self,
        fill: &Fill<'_>,
        mut left: Range<u64>,
        mut first: Option<Incoming>,
    ) -> Result<Outcome, FetchError> {
        let mut retries = Retries::new(self.patience);
        loop {
            let came = fill.came.load(Ordering::Relaxed);
            let error = match self.attempt(fill, &mut left, first.take()).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            // While others bring something, one that is turned away has only to wait.
            let progressed = fill.came.load(Ordering::Relaxed) > came;
            retries.pause(Failure { error, progressed }).await?;
            let can_resume = fill.part.version().is_some() || self.request.sha256.is_some();
            if fill.part.total().is_none() || !can_resume {
                return Ok(Outcome::Changed);
            }
        }
    }

    /// Fetches what is left of a piece; what came of it is not left any more, also on an error.
    async fn attempt(
        &self,
        fill: &Fill<'_>,
        left: &mut Range<u64>,
        first: Option<Incoming>,
    ) -> Result<Outcome, FetchError> {
        let mut response = match first {
            Some(first) => first.response,
            None => match self.ask(&fill.part, left).await? {
                Some(response) => response,
                None => return Ok(Outcome::Changed),
            },
        };
        let mut buffer = BytesMut::new();
        while !left.is_empty() {
            let next = response.chunk().await;
            if let Ok(Some(chunk)) = &next {
                let room = left.end - left.start - buffer.len() as u64;
                let room = usize::try_from(room).unwrap_or(usize::MAX);
                buffer.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            let is_all = buffer.len() as u64 == left.end - left.start;
            let is_end = !matches!(next, Ok(Some(_)));
            if buffer.len() >= WRITE_BYTES || is_all || is_end {
                fill.write(left, buffer.split()).await?;
            }
            match next {
                Ok(Some(_)) => {}
                Ok(None) => return self.ended(fill, left),
                Err(source) => {
                    let source = source.without_url();
                    return Err(FetchError::of_network(&self.request.url, source));
                }
            }
        }
        Ok(Outcome::Whole)
    }

    /// What it means that an answer is over while something is left.
    fn ended(&self, fill: &Fill<'_>, left: &Range<u64>) -> Result<Outcome, FetchError> {
        let url = self.request.url.clone();
        match fill.part.total() {
            None => Ok(Outcome::Whole),
            Some(_) if left.is_empty() => Ok(Outcome::Whole),
            Some(expected) => Err(FetchError::Short { url, expected, actual: fill.part.bytes() }),
        }
    }

    /// Asks for a range of this version; `None`: it is not to be had any more.
    async fn ask(&self, part: &Part, range: &Range<u64>) -> Result<Option<Response>, FetchError> {
        let response = self.send(Some(range.clone()), part.version()).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let headers = response.headers();
                let is_same = part.version().is_none()
                    || version(headers).is_none_or(|found| Some(found) == part.version());
                let found = content_range(headers);
                let fits = found.is_some_and(|(found, total)| {
                    found.start == range.start && Some(total) == part.total()
                });
                Ok((is_same && fits).then_some(response))
            }
            StatusCode::OK
            | StatusCode::RANGE_NOT_SATISFIABLE
            | StatusCode::PRECONDITION_FAILED => Ok(None),
            status => Err(FetchError::of_status(&self.request.url, status)),
        }
    }

    async fn send(
        &self,
        range: Option<Range<u64>>,
        version: Option<&str>,
    ) -> Result<Response, FetchError> {
        let FileRequest { url, signed, authorization, .. } = self.request;
        let mut builder = self.client.get(signed.as_ref().unwrap_or(url));
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(range) = range {
            builder = builder.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(version) = version {
            builder = builder.header(IF_RANGE, version);
        }
        let sent = builder.send().await;
        sent.map_err(|source| FetchError::of_network(url, source.without_url()))
    }
}

impl Fill<'_> {
    /// The next piece that nobody has taken.
    fn next(&self) -> Option<Range<u64>> {
        self.queue.lock().expect("nobody panics while holding it").pop_front()
    }

    /// Writes the beginning of what is left, which is shorter then.
    async fn write(&self, left: &mut Range<u64>, bytes: BytesMut) -> Result<(), FetchError> {
        let (part, at, count) = (Arc::clone(&self.part), left.start, bytes.len() as u64);
        let written = spawn_blocking(move || part.write(at, &bytes)).await;
        written.map_err(|_| FetchError::Ended)??;
        left.start += count;
        self.came.fetch_add(count, Ordering::Relaxed);
        self.progress.lock().expect("nobody panics while holding it").add(count);
        Ok(())
    }
}

/// What the server calls this version of the file; only a strong name allows to ask for a part.
fn version(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// Range and length of the whole, of `bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last, total): (u64, u64, u64) =
        (start.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (start <= last && last < total).then_some((start..last + 1, total))
}
