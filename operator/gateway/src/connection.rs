//! Connections of clients: how many, how slow, and how they end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use naru_protocol::Unstalled;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::api::Gateway;

/// After a failed accept (no file descriptors left): the pause before the next.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `stop` names a time; then accepts nobody new, and returns
/// when every request in progress has been answered or that time is over.
pub async fn serve(
    gateway: Gateway,
    router: Router,
    listener: TcpListener,
    mut stop: watch::Receiver<Option<Duration>>,
) {
    let room = Arc::new(Semaphore::new(gateway.limits().connections_max));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = tokio::select! {
            place = room.clone().acquire_owned() => place,
            () = stopped(&mut stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (gateway, router, stop) = (gateway.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _counted = gateway.metrics().connection();
            converse(&gateway, router, stream, stop).await;
            drop(place);
        });
    }
    drop(listener);
    let drain = stop.borrow().unwrap_or_default();
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all).await.is_err() {
        tracing::warn!("requests were cut off: their time to finish is over");
    }
}

/// Returns once `stop` names a time, or nobody can set it any more.
async fn stopped(stop: &mut watch::Receiver<Option<Duration>>) {
    let _ = stop.wait_for(Option::is_some).await;
}

/// One connection, request after request.
async fn converse(
    gateway: &Gateway,
    router: Router,
    stream: TcpStream,
    mut stop: watch::Receiver<Option<Duration>>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    let io = TokioIo::new(Unstalled::new(stream, gateway.limits().write_stall));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(gateway.limits().header_read)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
