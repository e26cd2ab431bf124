//! The pages for machines that look after machines: `/metrics`, `/healthz`, `/readyz`.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use crate::api::Gateway;

/// What `/readyz` says: ready, or what is still missing.
pub type Readiness = Result<(), String>;

/// The three pages; `readiness` decides what `/readyz` answers.
pub fn ops_router(gateway: Gateway, readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(gateway)
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
}

async fn metrics(State(gateway): State<Gateway>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, gateway.metrics_page())
}

async fn readyz(State(readiness): State<watch::Receiver<Readiness>>) -> (StatusCode, String) {
    match readiness.borrow().clone() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}
