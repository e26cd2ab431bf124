//! OpenAI's paths: what is answered here, and what is passed on.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use naru_protocol::openai::{ApiError, Model, ModelList, read_head};
use naru_protocol::tls::Identity;
use naru_protocol::{ModelEndpoints, Snapshot};
use tokio::sync::watch;

use crate::body::{self, Held, Room};
use crate::demand::Demand;
use crate::fleet::Fleet;
use crate::forward::{Forwarder, Outgoing};
use crate::headers::{self, REQUEST_ID};
use crate::held::Freshness;
use crate::keys::{Caller, KeyRule, Keyring};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::quota::Quotas;
use crate::relay;
use crate::span::RequestSpan;

/// One gateway: the last snapshot, its connections to workers, its counts. Clones are the same.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    fleet: Fleet,
    keyring: Arc<Keyring>,
    quotas: Quotas,
    forwarder: Forwarder,
    room: Room,
    limits: Limits,
    metrics: Metrics,
    freshness: Freshness,
    identity: Option<Arc<Identity>>,
}

impl Gateway {
    /// A gateway that works by the newest of `snapshots`.
    ///
    /// Errors: two metrics of one name, which is a mistake in this crate.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        keys: KeyRule,
        limits: Limits,
    ) -> Result<Self, prometheus::Error> {
        Self::with_identity(snapshots, keys, limits, None)
    }

    /// The same; with an identity it proves to workers who it is, and has them prove it too.
    pub fn with_identity(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        keys: KeyRule,
        limits: Limits,
        identity: Option<Arc<Identity>>,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new()?;
        let fleet = Fleet::new(snapshots);
        let keyring = Arc::new(Keyring::new(keys));
        let forwarder = Forwarder::new(
            fleet.clone(),
            keyring.clone(),
            limits.clone(),
            metrics.clone(),
            identity.clone(),
        );
        let inner = Inner {
            fleet,
            keyring,
            quotas: Quotas::default(),
            forwarder,
            room: Room::new(&limits),
            limits,
            metrics,
            freshness: Freshness::default(),
            identity,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The API under `/v1`, with vLLM's `/tokenize` and `/detokenize` beside it.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/models", get(models))
            .route("/v1/models/{*id}", get(model))
            .route("/v1/chat/completions", post(pass_on))
            .route("/v1/completions", post(pass_on))
            .route("/tokenize", post(pass_on))
            .route("/detokenize", post(pass_on))
            .fallback(async || refusal(&ApiError::path_not_found()))
            .method_not_allowed_fallback(async || refusal(&ApiError::method_not_allowed()))
            .with_state(self.clone())
    }

    /// Refuses a request before anything of it was looked at.
    pub(crate) fn refuse(&self, headers: &HeaderMap, error: &ApiError) -> Response<Body> {
        Refusal::of(headers).answer(self, error)
    }

    pub(crate) fn identity(&self) -> Option<&Arc<Identity>> {
        self.inner.identity.as_ref()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Where it counts; what is registered here besides is on its page of metrics too.
    pub fn registry(&self) -> &prometheus::Registry {
        self.inner.metrics.registry()
    }

    pub(crate) fn metrics_page(&self) -> Vec<u8> {
        if let Some(identity) = &self.inner.identity {
            self.inner.metrics.certificate(identity.expires_unix_seconds());
        }
        self.inner.metrics.page(&self.inner.fleet, &self.inner.freshness)
    }

    pub(crate) fn freshness(&self) -> &Freshness {
        &self.inner.freshness
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.fleet.snapshot()
    }

    pub(crate) fn demand(&self) -> &Demand {
        self.inner.fleet.demand()
    }
}

/// Every model that the caller may use.
async fn models(State(gateway): State<Gateway>, headers: HeaderMap) -> Response<Body> {
    let snapshot = gateway.snapshot();
    let caller = match gateway.inner.keyring.caller(&snapshot, &headers) {
        Ok(caller) => caller,
        Err(error) => return Refusal::of(&headers).answer(&gateway, &error),
    };
    let model = |(name, entry): (&String, &ModelEndpoints)| {
        Model::new(name.clone(), entry.created_unix_seconds)
    };
    let usable = snapshot.models.iter().filter(|(_, entry)| caller.may_use(entry));
    axum::Json(ModelList::new(usable.map(model).collect())).into_response()
}

async fn model(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response<Body> {
    let snapshot = gateway.snapshot();
    if let Err(error) = gateway.inner.keyring.admit(&snapshot, &headers, &id) {
        return Refusal::of(&headers).answer(&gateway, &error);
    }
    let created = snapshot.models.get(&id).map_or(0, |entry| entry.created_unix_seconds);
    axum::Json(Model::new(id, created)).into_response()
}

/// Reads whose request it is, then the body and, of it, the model; everything else is between
/// client and worker.
async fn pass_on(State(gateway): State<Gateway>, request: Request) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let inner = &gateway.inner;
    let mut refusal = Refusal::of(&head.headers);
    let span = RequestSpan::begin(&head.method, head.uri.path(), &head.headers);
    span.pass_on(&mut head.headers);
    refusal.span = Some(span);
    let admitted = inner.keyring.caller(&gateway.snapshot(), &head.headers).and_then(|caller| {
        refusal.tenant = caller.label().to_owned();
        Ok((inner.quotas.enter(&caller)?, caller))
    });
    let (place, caller) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            body::discard(body);
            return refusal.answer(&gateway, &error);
        }
    };
    let (held, model) = match read(&gateway, &head.headers, body).await {
        Ok(read) => read,
        Err(error) => return refusal.answer(&gateway, &error),
    };
    refusal.model = model.clone();
    let timer = inner.metrics.request(&model, caller.label());
    let outgoing = outgoing(head, &held, model, refusal.request_id.clone(), &caller);
    let begun = inner.forwarder.begin(&outgoing).await;
    match begun {
        Ok(begun) => {
            let status = begun.status.as_u16();
            timer.answered(status);
            refusal.tell_span(status);
            let Refusal { request_id, tenant, model, span } = refusal;
            tracing::info!(?request_id, tenant, model, status, "answering");
            relay::response(begun, timer, place, span)
        }
        Err(error) => refusal.answer(&gateway, &error),
    }
}

/// The body, and the name of a model that exists and that the caller may use.
async fn read(
    gateway: &Gateway,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Held, String), ApiError> {
    let inner = &gateway.inner;
    let held = body::read(headers, body, &inner.room, &inner.limits).await?;
    let model = read_head(&held.bytes)?.model;
    inner.keyring.admit(&gateway.snapshot(), headers, &model)?;
    Ok((held, model))
}

fn outgoing(
    head: Parts,
    held: &Held,
    model: String,
    request_id: HeaderValue,
    caller: &Caller,
) -> Outgoing {
    let tenant = caller.tenant().map(|tenant| {
        HeaderValue::from_str(tenant).expect("names of tenants were checked: printable ASCII")
    });
    Outgoing {
        method: head.method,
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: held.bytes.clone(),
        model,
        request_id,
        tenant,
    }
}

/// What is known of a request by the time that it is refused.
struct Refusal {
    request_id: HeaderValue,
    tenant: String,
    model: String,
    span: Option<RequestSpan>,
}

impl Refusal {
    fn of(headers: &HeaderMap) -> Self {
        let (tenant, model) = (String::new(), String::new());
        Self { request_id: headers::request_id(headers), tenant, model, span: None }
    }

    fn tell_span(&self, status: u16) {
        if let Some(span) = &self.span {
            span.is_for(&self.tenant, &self.model, &self.request_id);
            span.answered(status);
        }
    }

    /// An error of the gateway's own, counted and logged.
    fn answer(self, gateway: &Gateway, error: &ApiError) -> Response<Body> {
        self.tell_span(error.status);
        let Self { request_id, tenant, model, .. } = self;
        let code = error.body.code.unwrap_or_default();
        gateway.inner.metrics.request(&model, &tenant).answered(error.status);
        gateway.inner.metrics.refused(code, &tenant);
        tracing::info!(?request_id, tenant, model, status = error.status, code, "refused");
        let mut response = refusal(error);
        response.headers_mut().insert(REQUEST_ID, request_id);
        response
    }
}

/// An error in OpenAI's shape.
fn refusal(error: &ApiError) -> Response<Body> {
    let mut response = Response::new(Body::from(error.to_json()));
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after_seconds {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
