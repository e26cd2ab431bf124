//! OpenAI's HTTP API.
//!
//! request → `limits` (size, time) → naru-protocol reads it → template and tokenizer → `drive` →
//! events → `stream` writes chunks, or `chat`/`completions` collect a whole answer.

mod chat;
mod completions;
mod error;
mod limits;
mod logprobs;
mod models;
mod ops;
mod serve;
mod stream;
mod submit;
mod tokenize;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderName, HeaderValue};
use naru_protocol::openai::ApiError;
use naru_protocol::tls::Identity;

use self::error::Refused;
use crate::clock;
use crate::member::{Member, Phase, Served};

pub(crate) use serve::{Connections, Entrance, serve};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;
const TENANT: HeaderName = HeaderName::from_static("x-naru-tenant");

/// What every handler may look at.
pub(crate) struct Http {
    pub(crate) member: Arc<Member>,
    pub(crate) body_bytes_max: usize,
    /// Who this worker is to those who must prove who they are.
    pub(crate) identity: Option<Arc<Identity>>,
}

type Shared = Arc<Http>;

impl Http {
    /// The model, if requests may come. Errors: 503 while loading and while draining.
    fn ready(&self) -> Result<&Served, ApiError> {
        match self.member.phase() {
            Phase::Ready => self.member.served().ok_or_else(error::not_ready),
            Phase::Draining => Err(error::draining()),
            Phase::Apart(_) => Err(error::apart()),
            Phase::Fetching | Phase::Loading | Phase::Failed(_) => Err(error::not_ready()),
        }
    }

    /// Errors: 404 if `model` is not served here.
    fn check_model(&self, model: &str) -> Result<(), ApiError> {
        if self.member.names.iter().any(|name| name == model) {
            return Ok(());
        }
        Err(ApiError::model_not_found(model))
    }
}

/// The API for those who may have it, and the ops paths too if `with_ops`.
pub(crate) fn entrance(http: Shared, with_ops: bool) -> Entrance {
    let Some(identity) = http.identity.clone() else {
        return Entrance::plain(api(http, with_ops));
    };
    let api = api(Arc::clone(&http), with_ops);
    let may_not = || async {
        Refused(ApiError::forbidden("this worker answers the gateway and the operator alone"))
    };
    let others = finish(Router::new().fallback(may_not), http);
    Entrance::proven(identity, api, others)
}

fn api(http: Shared, with_ops: bool) -> Router {
    let router = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::show))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize));
    let router = if with_ops { router.merge(ops_routes()) } else { router };
    finish(without_path(router), http)
}

/// Metrics and health alone.
pub(crate) fn ops(http: Shared) -> Entrance {
    Entrance::plain(finish(without_path(ops_routes()), http))
}

fn ops_routes() -> Router<Shared> {
    Router::new()
        .route("/metrics", get(ops::metrics))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
}

fn without_path(router: Router<Shared>) -> Router<Shared> {
    router
        .fallback(|| async { Refused(ApiError::path_not_found()) })
        .method_not_allowed_fallback(|| async { Refused(ApiError::method_not_allowed()) })
}

fn finish(router: Router<Shared>, http: Shared) -> Router {
    router.layer(from_fn_with_state(Arc::clone(&http), observe)).with_state(http)
}

/// Gives each request an id, and each answer a line in the log and a place in the metrics.
async fn observe(State(http): State<Shared>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let endpoint = request.extensions().get::<MatchedPath>().cloned();
    let endpoint = endpoint.as_ref().map_or("other", MatchedPath::as_str).to_owned();
    let mut response = next.run(request).await;
    let seconds = start.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    http.member.metrics.count_request(&endpoint, status, seconds);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let milliseconds = (seconds * 1e3) as u64;
    match endpoint.as_str() {
        "/healthz" | "/readyz" | "/metrics" => {
            tracing::debug!(request_id = id, endpoint, status, milliseconds, "answered");
        }
        _ => tracing::info!(request_id = id, endpoint, status, milliseconds, "answered"),
    }
    response
}

/// The id of the request being answered.
#[derive(Clone)]
struct RequestId(String);

/// The client's id if it is short and plain, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |id: &&str| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match given.filter(plain) {
        Some(id) => id.to_owned(),
        None => format!("{:016x}{:016x}", clock::random_u64(), clock::random_u64()),
    }
}

/// Prefixes are shared only between requests of equal salt.
fn tenant_salt(headers: &HeaderMap) -> u64 {
    // FNV-1a, 64 bits.
    let tenant = headers.get(TENANT).map_or(&[] as &[u8], HeaderValue::as_bytes);
    tenant.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn json<T: serde::Serialize>(value: &T) -> Response {
    axum::Json(value).into_response()
}
