//! The pages of an operator for machines that look after machines: `/metrics`, `/healthz`,
//! `/readyz`.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use super::Metrics;

/// The three pages; `/readyz` is ok once the API server has answered.
pub fn pages(metrics: Metrics, is_asked: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/metrics", get(page))
        .with_state(metrics)
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(is_asked))
}

async fn page(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.page())
}

async fn readyz(State(is_asked): State<watch::Receiver<bool>>) -> (StatusCode, &'static str) {
    if *is_asked.borrow() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no answer of the API server, or no certificate yet\n")
    }
}
