//! The answer on its way from worker to client, byte for byte.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use naru_protocol::openai::ApiError;

use crate::fleet::InFlight;
use crate::forward::Begun;
use crate::metrics::Timer;
use crate::quota::Place;
use crate::span::RequestSpan;

/// The response that carries what a worker has begun to answer.
pub(crate) fn response(
    begun: Begun,
    timer: Timer,
    place: Place,
    span: Option<RequestSpan>,
) -> Response<axum::body::Body> {
    let Begun { status, headers, first, rest, in_flight } = begun;
    let is_events = is_event_stream(&headers);
    let relay =
        Relay { first, rest, is_events, span, _in_flight: in_flight, _timer: timer, _place: place };
    let mut response = Response::new(axum::body::Body::new(relay));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// First what had arrived, then what arrives. Dropping it (the client left) drops the worker's
/// connection, by which the worker knows that nobody listens.
struct Relay {
    first: Option<Bytes>,
    rest: Option<Incoming>,
    is_events: bool,
    span: Option<RequestSpan>,
    _in_flight: InFlight,
    _timer: Timer,
    _place: Place,
}

impl Body for Relay {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(rest) = self.rest.as_mut() else { return Poll::Ready(None) };
        match Pin::new(rest).poll_frame(context) {
            Poll::Ready(Some(Err(error))) => {
                self.rest = None;
                self.span.iter().for_each(RequestSpan::broke);
                tracing::warn!(error = %error, "the worker ended in the middle of an answer");
                if self.is_events {
                    return Poll::Ready(Some(Ok(Frame::data(broken_event()))));
                }
                // Its length will not match: the client sees a cut connection, not a short answer.
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.rest = None;
                Poll::Ready(None)
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |bytes| bytes.len() as u64);
        match &self.rest {
            None => SizeHint::with_exact(first),
            Some(rest) => {
                let mut hint = rest.size_hint();
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + first);
                }
                hint.set_lower(hint.lower() + first);
                hint
            }
        }
    }
}

/// The last event of a stream that broke. It begins with the end of whatever line was cut off.
fn broken_event() -> Bytes {
    let error = ApiError::bad_gateway("the worker ended before its answer was complete");
    Bytes::from(format!("\n\ndata: {}\n\n", error.to_json()))
}
