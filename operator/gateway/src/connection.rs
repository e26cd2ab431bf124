//! Connections of clients: how many, how slow, and how they end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use naru_protocol::Unstalled;
use naru_protocol::tls::{Certificate, Change, Connection};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::api::Gateway;
use crate::greet::greet;
use crate::listen::Entrance;
use crate::streams::{self, Streams};

/// After a failed accept (no file descriptors left): the pause before the next.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Names the time that requests in progress get, once it is to end.
pub(crate) type Stop = watch::Receiver<Option<Duration>>;

/// Serves `router` at `entrance` until `stop` names a time; then accepts nobody new, and returns
/// when every request in progress has been answered or that time is over.
pub async fn serve(
    gateway: Gateway,
    router: Router,
    entrance: impl Into<Entrance>,
    mut stop: watch::Receiver<Option<Duration>>,
) {
    let Entrance { listener, certificate } = entrance.into();
    let room = Arc::new(Semaphore::new(gateway.limits().connections_max));
    let mut files = JoinSet::new(); // it ends with this function
    if let Some(certificate) = certificate.clone() {
        files.spawn(follow(gateway.clone(), certificate));
    }
    let hall = Hall {
        streams: Streams::new(gateway.clone(), router.clone()),
        handshakes: Arc::new(Semaphore::new(gateway.limits().handshakes_max)),
        certificate,
        gateway,
        router,
    };
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
        let (hall, stop) = (hall.clone(), stop.clone());
        connections.spawn(async move {
            let _counted = hall.gateway.metrics().connection();
            hall.receive(stream, stop).await;
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
pub(crate) async fn stopped(stop: &mut Stop) {
    let _ = stop.wait_for(Option::is_some).await;
}

/// Takes up changed files of a certificate, and counts what became of them. Never returns.
async fn follow(gateway: Gateway, certificate: Arc<Certificate>) {
    let metrics = gateway.metrics();
    metrics.door_certificate(certificate.expires_unix_seconds());
    let told = |change| match change {
        Change::TakenUp => metrics.door_certificate(certificate.expires_unix_seconds()),
        Change::Refused => metrics.door_certificate_refused(),
    };
    certificate.follow(told).await;
}

/// What a client meets behind the door.
#[derive(Clone)]
struct Hall {
    gateway: Gateway,
    router: Router,
    streams: Streams,
    certificate: Option<Arc<Certificate>>,
    handshakes: Arc<Semaphore>,
}

impl Hall {
    /// One connection, from its first byte to its last.
    async fn receive(&self, stream: TcpStream, mut stop: Stop) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended at once");
            return;
        }
        let Some(certificate) = &self.certificate else {
            let stall = self.gateway.limits().write_stall;
            let stream = Connection::plain(Unstalled::new(stream, stall));
            return self.converse(stream, stop).await;
        };
        let greeted = tokio::select! {
            greeted = greet(&self.gateway, certificate, &self.handshakes, stream) => greeted,
            () = stopped(&mut stop) => return,
        };
        match greeted {
            Some(stream) if stream.speaks_http2() => {
                streams::converse(&self.streams, stream, stop).await;
            }
            Some(stream) => self.converse(stream, stop).await,
            None => {}
        }
    }

    /// HTTP/1.1: request after request.
    async fn converse(&self, stream: Connection<Unstalled>, mut stop: Stop) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.gateway.limits().header_read)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router.clone()));
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
}
