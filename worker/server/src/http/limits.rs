//! What a client may cost before anybody looks at what it wants.

use std::ops::Deref;
use std::time::Duration;

use axum::body::Body;
use bytes::BytesMut;
use futures::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use naru_protocol::openai::ApiError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error::busy;

/// Time for the head of a request to arrive, and for a kept connection to be idle.
pub(super) const HEAD_SECONDS_MAX: u64 = 30;
/// Time for a body to arrive.
const BODY_SECONDS_MAX: u64 = 30;
/// How long the writing of an answer may make no progress.
pub(super) const STALL_SECONDS_MAX: u64 = 60;
/// Largest head of a request.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Connections at one time; more wait in the listen queue.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// After a body was refused, how much more of it is read and thrown away so that the client, still
/// sending, gets to read the answer.
const DISCARDED_BYTES_MAX: u64 = 256 << 20;
const DISCARDED_SECONDS_MAX: u64 = 10;

/// Bodies that are being read or understood, all together, in KiB.
static BODIES_KIB: Semaphore = Semaphore::const_new(256 << 10);

/// A whole body, and its share of the memory that bodies may take.
pub(super) struct Received {
    bytes: BytesMut,
    share: Option<SemaphorePermit<'static>>,
}

impl Deref for Received {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Received {
    /// Adds `part`. Errors: 503 when too many bodies are being read.
    fn push(&mut self, part: &[u8]) -> Result<(), ApiError> {
        self.bytes.extend_from_slice(part);
        let have = self.share.as_ref().map_or(0, SemaphorePermit::num_permits);
        let more = self.bytes.len().div_ceil(1 << 10).saturating_sub(have);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let permit = BODIES_KIB.try_acquire_many(more).map_err(|_| busy())?;
        match &mut self.share {
            Some(share) => share.merge(permit),
            None => self.share = Some(permit),
        }
        Ok(())
    }
}

/// Reads a whole body. Errors: 413 as soon as it is known to be too large, 408 when it is too
/// slow, 400 when the client breaks off, 503 when there are too many.
pub(super) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Received, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > bytes_max as u64) {
        discard(body.into_data_stream());
        return Err(ApiError::body_too_large(bytes_max));
    }
    let read = collect(body, bytes_max);
    match timeout(Duration::from_secs(BODY_SECONDS_MAX), read).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::body_too_slow(BODY_SECONDS_MAX)),
    }
}

async fn collect(body: Body, bytes_max: usize) -> Result<Received, ApiError> {
    let mut stream = body.into_data_stream();
    let mut whole = Received { bytes: BytesMut::new(), share: None };
    while let Some(part) = stream.next().await {
        let part = part.map_err(|_| ApiError::invalid_json("the request body broke off"))?;
        if whole.len() + part.len() > bytes_max {
            discard(stream);
            return Err(ApiError::body_too_large(bytes_max));
        }
        if let Err(error) = whole.push(&part) {
            discard(stream);
            return Err(error);
        }
    }
    Ok(whole)
}

/// Goes on reading in the background: closing now would reset the connection and the client would
/// never see the refusal.
fn discard(mut stream: axum::body::BodyDataStream) {
    tokio::spawn(timeout(Duration::from_secs(DISCARDED_SECONDS_MAX), async move {
        let mut bytes = 0u64;
        while let Some(Ok(part)) = stream.next().await {
            bytes += part.len() as u64;
            if bytes > DISCARDED_BYTES_MAX {
                return;
            }
        }
    }));
}
