//! One request, from the endpoint it is sent to until the first byte of the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use naru_protocol::openai::ApiError;
use naru_protocol::tls::{Alpn, Connector, Identity, Role};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::fleet::{Failures, Fleet, Found, InFlight};
use crate::headers;
use crate::keys::Keyring;
use crate::limits::Limits;
use crate::metrics::Metrics;

/// Longest refusal of a worker that is read to see whether another may be asked.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// What a client is told in `Retry-After`.
const RETRY_SECONDS: u32 = 2;
/// A waiting request tries an endpoint again after this time though nothing was heard of it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Connections to one worker kept open while nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// Sends requests to endpoints.
#[derive(Clone)]
pub(crate) struct Forwarder {
    client: Client<Connector, Full<Bytes>>,
    fleet: Fleet,
    keyring: Arc<Keyring>,
    waiting: Arc<Semaphore>,
    limits: Limits,
    metrics: Metrics,
}

/// What is sent to whichever endpoint is chosen.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) model: String,
    pub(crate) request_id: HeaderValue,
    pub(crate) tenant: Option<HeaderValue>,
}

/// The head of an answer and its first bytes; nothing has reached the client yet.
pub(crate) struct Begun {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) first: Option<Bytes>,
    /// `None`: `first` is all there is.
    pub(crate) rest: Option<Incoming>,
    pub(crate) in_flight: InFlight,
}

impl Forwarder {
    pub(crate) fn new(
        fleet: Fleet,
        keyring: Arc<Keyring>,
        limits: Limits,
        metrics: Metrics,
        identity: Option<Arc<Identity>>,
    ) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector(&limits, identity));
        let waiting = Arc::new(Semaphore::new(limits.waiting_max));
        Self { client, fleet, keyring, waiting, limits, metrics }
    }

    /// Sends the request to one endpoint after another until one begins to answer.
    ///
    /// Errors: 404 without such a model, 503 when nobody becomes ready in time, 502 when it
    /// failed as often as is allowed.
    pub(crate) async fn begin(&self, outgoing: &Outgoing) -> Result<Begun, ApiError> {
        let deadline = Instant::now() + self.limits.wait;
        let mut failures = Failures::default();
        loop {
            let in_flight = self.endpoint(outgoing, &failures, deadline).await?;
            let (reason, in_flight) = match self.attempt(outgoing, in_flight).await {
                Ok(begun) => return Ok(begun),
                Err(missed) => missed,
            };
            failures.add(&in_flight);
            self.metrics.retried(reason);
            let (id, at) = (&outgoing.request_id, in_flight.address());
            let model = &outgoing.model;
            tracing::warn!(request_id = ?id, model, endpoint = at, reason, "attempt failed");
            if failures.count() >= self.limits.attempts_max {
                return Err(ApiError::bad_gateway("the workers failed before they answered"));
            }
        }
    }

    /// An endpoint for the request's model, waiting for one if need be. A key that is revoked, or
    /// expires, meanwhile is refused.
    async fn endpoint(
        &self,
        outgoing: &Outgoing,
        failures: &Failures,
        deadline: Instant,
    ) -> Result<InFlight, ApiError> {
        let model = &outgoing.model;
        let mut changes = self.fleet.changes();
        let mut place: Option<OwnedSemaphorePermit> = None;
        let mut _counted = None;
        loop {
            changes.mark_unchanged();
            let deployment = match self.fleet.find(model, failures) {
                Found::Endpoint(in_flight) => return Ok(in_flight),
                Found::NoModel => return Err(ApiError::model_not_found(model)),
                Found::NoReplica => {
                    return Err(busy("no_replica", "this model is scaled to zero replicas"));
                }
                Found::NobodyReady(deployment) => deployment,
            };
            if place.is_none() {
                let full = |_| busy("queue_full", "too many requests wait for this model");
                place = Some(self.waiting.clone().try_acquire_owned().map_err(full)?);
                _counted = Some((self.metrics.waiting(), self.fleet.demand().waiting(&deployment)));
            }
            let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
            let changed = timeout_at(look_again, changes.changed()).await;
            let is_over = matches!(changed, Ok(Err(_))); // nobody publishes any more
            if is_over || Instant::now() >= deadline {
                return Err(busy(
                    "no_worker_ready",
                    "no worker of this model became ready in time",
                ));
            }
            self.keyring.admit(&self.fleet.snapshot(), &outgoing.headers, model)?;
        }
    }

    /// One attempt: the head of the answer and its first bytes, or why there are none.
    async fn attempt(
        &self,
        outgoing: &Outgoing,
        in_flight: InFlight,
    ) -> Result<Begun, (&'static str, InFlight)> {
        let Some(request) = request(outgoing, in_flight.address()) else {
            return Err(("endpoint is no address", in_flight));
        };
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Err(("could not connect", in_flight)),
            Err(_) => return Err(("ended before it answered", in_flight)),
        };
        let (head, body) = response.into_parts();
        let (first, rest) = match first_bytes(head.status, body).await {
            Ok(bytes) => bytes,
            Err(reason) => return Err((reason, in_flight)),
        };
        let headers = headers::for_client(&head.headers, &outgoing.request_id);
        Ok(Begun { status: head.status, headers, first, rest, in_flight })
    }
}

/// How workers are reached: the one place that knows.
fn connector(limits: &Limits, identity: Option<Arc<Identity>>) -> Connector {
    Connector { identity, server: Role::Worker, alpn: Alpn::Http1, connect: limits.connect }
}

fn busy(code: &'static str, message: &str) -> ApiError {
    ApiError::unavailable(code, message, RETRY_SECONDS)
}

fn request(outgoing: &Outgoing, address: &str) -> Option<Request<Full<Bytes>>> {
    let uri = format!("http://{address}{}", outgoing.path).parse::<Uri>().ok()?;
    let mut request = Request::new(Full::new(outgoing.body.clone()));
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    let Outgoing { headers, request_id, tenant, .. } = outgoing;
    *request.headers_mut() = headers::for_worker(headers, request_id, tenant.as_ref());
    Some(request)
}

/// Waits for the first bytes: until they are here, the request can be sent elsewhere.
///
/// Errors: the words for a log, when the worker ended first or sends its clients away.
async fn first_bytes(
    status: StatusCode,
    mut body: Incoming,
) -> Result<(Option<Bytes>, Option<Incoming>), &'static str> {
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let whole = Limited::new(body, REFUSAL_BYTES_MAX).collect().await;
        let bytes = whole.map_err(|_| "ended before it answered")?.to_bytes();
        return if is_passing(&bytes) {
            Err("takes no requests now")
        } else {
            Ok((Some(bytes), None))
        };
    }
    loop {
        match body.frame().await {
            None => return Ok((None, None)),
            Some(Err(_)) => return Err("ended before its first byte"),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok((Some(data), Some(body))),
                _ => {}
            },
        }
    }
}

/// Whether a refusal says only that this worker is not up yet, or not for long.
fn is_passing(refusal: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Refusal {
        error: Detail,
    }
    #[derive(Deserialize)]
    struct Detail {
        code: Option<String>,
    }
    let code = serde_json::from_slice::<Refusal>(refusal).ok().and_then(|r| r.error.code);
    code.is_some_and(|code| ["model_not_ready", "draining"].contains(&code.as_str()))
}
