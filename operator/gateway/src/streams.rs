//! HTTP/2: many requests on one connection, within the bounds of one.
//!
//! On HTTP/1.1 a connection is a request, and limits of connections bound requests. Here each
//! stream is one; so streams are counted against the same number, and what a client leaves lying,
//! which TCP does not show, is seen by what is asked of the bodies of its answers.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use naru_protocol::Unstalled;
use naru_protocol::openai::ApiError;
use naru_protocol::tls::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::api::Gateway;
use crate::connection::{Stop, stopped};
use crate::limits::Limits;

/// What a client may send of its requests before they are read, of one and of all together.
const WINDOW_BYTES: u32 = 256 << 10;
/// What of one answer lies ready for a client that does not take it yet.
const SEND_BYTES_MAX: usize = 64 << 10;
const RETRY_SECONDS: u32 = 1;

/// What answers the requests of all connections of HTTP/2.
#[derive(Clone)]
pub(crate) struct Streams {
    gateway: Gateway,
    router: Router,
    /// As many requests as there may be connections.
    places: Arc<Semaphore>,
}

impl Streams {
    pub(crate) fn new(gateway: Gateway, router: Router) -> Self {
        let places = Arc::new(Semaphore::new(gateway.limits().connections_max));
        Self { gateway, router, places }
    }

    async fn answer(self, request: Request<Incoming>, open: Open) -> Response<Watched> {
        let Ok(place) = self.places.try_acquire_owned() else {
            let message = "too many requests are being answered";
            let error = ApiError::unavailable("overloaded", message, RETRY_SECONDS);
            let refusal = self.gateway.refuse(request.headers(), &error);
            return refusal.map(|body| Watched::new(body, open, None));
        };
        let answer = TowerToHyperService::new(self.router).call(request).await;
        let Ok(answer) = answer;
        answer.map(|body| Watched::new(body, open, Some(place)))
    }
}

/// One connection: ends it when no request was on it for a while, cuts it when its client takes
/// nothing of what is ready for it.
pub(crate) async fn converse(streams: &Streams, stream: Connection<Unstalled>, mut stop: Stop) {
    let limits = streams.gateway.limits();
    let activity = Activity::new();
    let service = OfConnection { streams: streams.clone(), activity: activity.clone() };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut is_leaving = false;
    loop {
        let next = activity.next(limits, is_leaving, Instant::now());
        let look_again = match next {
            Next::Look(when) => when,
            Next::Leave => {
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            Next::Cut => {
                tracing::debug!("a connection was cut: its client took nothing");
                return;
            }
        };
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = stopped(&mut stop), if !is_leaving => {
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(look_again) => {}
        }
    }
}

/// Answers the requests of one connection.
struct OfConnection {
    streams: Streams,
    activity: Activity,
}

impl Service<Request<Incoming>> for OfConnection {
    type Response = Response<Watched>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Watched>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (streams, open) = (self.streams.clone(), self.activity.open());
        Box::pin(async move { Ok(streams.answer(request, open).await) })
    }
}

/// What goes on on one connection.
#[derive(Clone)]
struct Activity(Arc<Mutex<Ongoing>>);

struct Ongoing {
    /// Requests that are being answered.
    open: usize,
    /// Answers of which the client has not taken what there was.
    lying: usize,
    /// When the last of `open` ended, or the connection began.
    idle_since: Instant,
    /// When something was taken, or began to lie.
    moved: Instant,
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It goes on; this cannot change before then.
    Look(Instant),
    /// It ends when what is on it has ended.
    Leave,
    /// It ends now.
    Cut,
}

impl Activity {
    fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Ongoing { open: 0, lying: 0, idle_since: now, moved: now })))
    }

    fn ongoing(&self) -> MutexGuard<'_, Ongoing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request more, until the result is dropped.
    fn open(&self) -> Open {
        self.ongoing().open += 1;
        Open(self.clone())
    }

    fn lies(&self) {
        let mut ongoing = self.ongoing();
        if ongoing.lying == 0 {
            ongoing.moved = Instant::now();
        }
        ongoing.lying += 1;
    }

    fn is_taken(&self) {
        let mut ongoing = self.ongoing();
        ongoing.lying -= 1;
        ongoing.moved = Instant::now();
    }

    fn next(&self, limits: &Limits, is_leaving: bool, now: Instant) -> Next {
        let ongoing = self.ongoing();
        let (idle, stall) = (limits.header_read, limits.write_stall);
        if ongoing.lying > 0 && ongoing.moved + stall <= now {
            return Next::Cut;
        }
        // Whatever begins from now on is not due before.
        let mut look = now + idle.min(stall);
        if ongoing.lying > 0 {
            look = look.min(ongoing.moved + stall);
        }
        if ongoing.open == 0 {
            let leave = ongoing.idle_since + idle;
            // Its last answers may still be on their way.
            let cut = leave + stall;
            match is_leaving {
                _ if cut <= now => return Next::Cut,
                false if leave <= now => return Next::Leave,
                true => look = look.min(cut),
                false => look = look.min(leave),
            }
        }
        Next::Look(look)
    }
}

/// One request that is being answered.
struct Open(Activity);

impl Drop for Open {
    fn drop(&mut self) {
        let mut ongoing = self.0.ongoing();
        ongoing.open -= 1;
        if ongoing.open == 0 {
            ongoing.idle_since = Instant::now();
        }
    }
}

/// The body of an answer. It is asked for more when the client has room for more: what it has
/// given, or not been asked for yet, lies there until then.
struct Watched {
    body: Body,
    lies: bool,
    open: Open,
    _place: Option<OwnedSemaphorePermit>,
}

impl Watched {
    fn new(body: Body, open: Open, place: Option<OwnedSemaphorePermit>) -> Self {
        open.0.lies();
        Self { body, lies: true, open, _place: place }
    }

    fn is_taken(&mut self) {
        if std::mem::take(&mut self.lies) {
            self.open.0.is_taken();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.is_taken();
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_taken();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.lies = true;
            self.open.0.lies();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
