//! The webhook's HTTPS.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use naru_protocol::Unstalled;
use naru_protocol::tls::Identity;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use super::admission::answer;
use super::watch::Shared;
use crate::certificates::story;

/// Largest review: an object and the one before, each of at most 3 MiB in an API server.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Connections at one time; more wait in the listen queue. Few API servers keep a few each.
const CONNECTIONS_MAX: usize = 256;
/// Time for the head of a request to arrive, and for a kept connection to be idle.
const HEAD: Duration = Duration::from_secs(60);
/// How long the writing of an answer may make no progress.
const STALL: Duration = Duration::from_secs(30);
/// After a failed accept (no file descriptors left): the pause before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers reviews on `listener` once there is an identity. Never returns.
pub(super) async fn serve(
    listener: TcpListener,
    mut identity: watch::Receiver<Option<Arc<Identity>>>,
    facts: Shared,
) {
    let identity = match identity.wait_for(Option::is_some).await {
        Ok(identity) => identity.clone(),
        Err(_) => None,
    };
    let Some(identity) = identity else { return std::future::pending().await };
    let router = Router::new()
        .route("/validate", post(validate))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(facts);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (identity, router) = (Arc::clone(&identity), router.clone());
                tokio::spawn(async move {
                    converse(&identity, router, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection to the webhook");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(identity: &Identity, router: Router, stream: TcpStream) {
    let stream = match identity.accept_anyone(Unstalled::new(stream, STALL)).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::info!(error = story(&error), "a client of the webhook broke off");
            return;
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the webhook ended early");
    }
}

async fn validate(State(facts): State<Shared>, body: Bytes) -> Response {
    let Some(facts) = facts.read() else {
        let why = "this operator has not seen the cluster yet; try again";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    match answer(&body, &facts) {
        Ok(answer) => {
            drop(facts);
            tracing::debug!(allowed = answer.is_allowed(), "reviewed an object");
            axum::Json(answer).into_response()
        }
        Err(message) => (StatusCode::BAD_REQUEST, message).into_response(),
    }
}
