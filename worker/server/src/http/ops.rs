//! `/metrics`, `/healthz`, `/readyz`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::Shared;
use crate::member::Phase;

/// Everything Prometheus wants to know.
pub(super) async fn metrics(State(http): State<Shared>) -> Response {
    let load = http.member.served().map(|served| *served.drive.load().borrow());
    if let Some(identity) = &http.identity {
        http.member.metrics.show_certificate(identity.expires_unix_seconds());
    }
    let text = http.member.metrics.render(load.as_ref());
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}

/// 200 as long as the process can do anything at all.
pub(super) async fn healthz(State(http): State<Shared>) -> Response {
    match http.member.phase() {
        Phase::Failed(failure) => {
            (StatusCode::INTERNAL_SERVER_ERROR, failure.words).into_response()
        }
        _ => "ok\n".into_response(),
    }
}

/// 200 while requests are answered.
pub(super) async fn readyz(State(http): State<Shared>) -> Response {
    let word = match http.member.phase() {
        Phase::Ready => return "ready\n".into_response(),
        Phase::Fetching => "fetching\n",
        Phase::Loading => "loading\n",
        Phase::Apart(why) => {
            let words = format!("waiting for the other ranks: {why}\n");
            return (StatusCode::SERVICE_UNAVAILABLE, words).into_response();
        }
        Phase::Draining => "draining\n",
        Phase::Failed(_) => "failed\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, word).into_response()
}
