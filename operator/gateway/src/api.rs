//! OpenAI's paths: what is answered here, and what is passed on.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use naru_protocol::Snapshot;
use naru_protocol::openai::{ApiError, Model, ModelList, read_head};
use tokio::sync::watch;

use crate::body::{self, Room};
use crate::fleet::Fleet;
use crate::forward::{Forwarder, Outgoing};
use crate::headers::{self, REQUEST_ID};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::relay;

/// One gateway: the last snapshot, its connections to workers, its counts. Clones are the same.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    fleet: Fleet,
    forwarder: Forwarder,
    room: Room,
    limits: Limits,
    metrics: Metrics,
}

impl Gateway {
    /// A gateway that routes by the newest of `snapshots`.
    ///
    /// Errors: two metrics of one name, which is a mistake in this crate.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        limits: Limits,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new()?;
        let fleet = Fleet::new(snapshots);
        let forwarder = Forwarder::new(fleet.clone(), limits.clone(), metrics.clone());
        let room = Room::new(&limits);
        Ok(Self { inner: Arc::new(Inner { fleet, forwarder, room, limits, metrics }) })
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

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn metrics_page(&self) -> Vec<u8> {
        self.inner.metrics.page(&self.inner.fleet)
    }
}

async fn models(State(gateway): State<Gateway>) -> Response<Body> {
    let snapshot = gateway.inner.fleet.snapshot();
    let model = |(name, entry): (&String, &naru_protocol::ModelEndpoints)| {
        Model::new(name.clone(), entry.created_unix_seconds)
    };
    let list = ModelList::new(snapshot.models.iter().map(model).collect());
    axum::Json(list).into_response()
}

async fn model(State(gateway): State<Gateway>, Path(id): Path<String>) -> Response<Body> {
    match gateway.inner.fleet.snapshot().models.get(&id) {
        Some(entry) => axum::Json(Model::new(id, entry.created_unix_seconds)).into_response(),
        None => refusal(&ApiError::model_not_found(&id)),
    }
}

/// Reads the body and, of it, the model; everything else is between client and worker.
async fn pass_on(State(gateway): State<Gateway>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let request_id = headers::request_id(&head.headers);
    let inner = &gateway.inner;
    let read = async {
        let held = body::read(&head.headers, body, &inner.room, &inner.limits).await?;
        let model = read_head(&held.bytes)?.model;
        Ok((held, model))
    };
    let (held, model) = match read.await {
        Ok(read) => read,
        Err(error) => return refuse(&gateway, "", &error, request_id),
    };
    let known = inner.fleet.snapshot().models.contains_key(&model);
    if !known {
        return refuse(&gateway, "", &ApiError::model_not_found(&model), request_id);
    }
    let timer = inner.metrics.request(&model);
    let outgoing = Outgoing {
        method: head.method,
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: held.bytes.clone(),
        model,
        request_id,
    };
    let begun = inner.forwarder.begin(&outgoing).await;
    let Outgoing { model, request_id, .. } = outgoing;
    match begun {
        Ok(begun) => {
            let status = begun.status.as_u16();
            timer.answered(status);
            tracing::info!(?request_id, model, status, "answering");
            relay::response(begun, timer)
        }
        Err(error) => refuse(&gateway, &model, &error, request_id),
    }
}

/// An error of the gateway's own, counted and logged.
fn refuse(
    gateway: &Gateway,
    model: &str,
    error: &ApiError,
    request_id: HeaderValue,
) -> Response<Body> {
    gateway.inner.metrics.request(model).answered(error.status);
    let code = error.body.code;
    tracing::info!(?request_id, model, status = error.status, code, "refused");
    let mut response = refusal(error);
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

/// An error in OpenAI's shape.
fn refusal(error: &ApiError) -> Response<Body> {
    let mut response = Response::new(Body::from(error.to_json()));
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if let Some(seconds) = error.retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
