//! Request bodies: bounded each, bounded together, and read in bounded time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use naru_protocol::openai::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::limits::Limits;

/// Bodies are accounted for in pieces of this size.
const UNIT_BYTES: usize = 1024;
/// How much of a refused body is still taken from the client, so that it reads the refusal
/// instead of an error of its own writing.
const DISCARD_BYTES_MAX: usize = 256 << 20;
/// And for how long.
const DISCARD_MAX: Duration = Duration::from_secs(10);
const RETRY_SECONDS: u32 = 1;

/// Room for all bodies that are held.
#[derive(Clone)]
pub(crate) struct Room(Arc<Semaphore>);

/// A body that was read; its room is given back when it is dropped.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    _room: Vec<OwnedSemaphorePermit>,
}

impl Room {
    pub(crate) fn new(limits: &Limits) -> Self {
        let units = (limits.bodies_bytes_max / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(units)))
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let full = |_| {
            let message = "too many request bodies are being held";
            ApiError::unavailable("overloaded", message, RETRY_SECONDS)
        };
        self.0.clone().try_acquire_many_owned(units).map_err(full)
    }
}

/// Reads a whole body.
///
/// Errors: 413 before reading when its length is declared, 413 as soon as it is too long
/// otherwise, 408 when it comes too slowly, 503 when all bodies together need too much memory.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    room: &Room,
    limits: &Limits,
) -> Result<Held, ApiError> {
    let max = limits.body_bytes_max;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let declared = declared.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if declared > max as u64 {
        discard(body);
        return Err(ApiError::body_too_large(max));
    }
    let deadline = Instant::now() + limits.body_read;
    let mut buffer = BytesMut::new();
    let mut permits = Vec::new();
    loop {
        let too_slow = |_| ApiError::body_too_slow(limits.body_read.as_secs());
        let frame = match timeout_at(deadline, body.frame()).await.map_err(too_slow)? {
            None => return Ok(Held { bytes: buffer.freeze(), _room: permits }),
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Err(ApiError::invalid_json("the request body was cut off")),
        };
        let Ok(data) = frame.into_data() else { continue };
        if buffer.len() + data.len() > max {
            discard(body);
            return Err(ApiError::body_too_large(max));
        }
        hold(room, &mut permits, buffer.len(), data.len())?;
        buffer.extend_from_slice(&data);
    }
}

/// Takes room for the units that `more` bytes begin.
fn hold(
    room: &Room,
    permits: &mut Vec<OwnedSemaphorePermit>,
    held: usize,
    more: usize,
) -> Result<(), ApiError> {
    let units = (held + more).div_ceil(UNIT_BYTES) - held.div_ceil(UNIT_BYTES);
    if units == 0 {
        return Ok(());
    }
    let permit = room.take(units * UNIT_BYTES)?;
    match permits.first_mut() {
        Some(first) => first.merge(permit),
        None => permits.push(permit),
    }
    Ok(())
}

/// Reads on and forgets, within bounds, while the refusal is on its way.
pub(crate) fn discard(mut body: Body) {
    let reading = async move {
        let mut left = DISCARD_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let taken = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(taken) else { break };
            left = rest;
        }
    };
    tokio::spawn(async move {
        let _ = tokio::time::timeout(DISCARD_MAX, reading).await;
    });
}
