//! Connections: accepted up to a bound, given up when they are too slow, ended when draining.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use naru_protocol::Unstalled;
use naru_protocol::tls::{Alpn, Connection as Stream, Identity, Role, TlsError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::limits::{CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_SECONDS_MAX, STALL_SECONDS_MAX};
use crate::member::Changes;

/// Pause after the system refused a connection, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Tells when every connection is closed.
pub(crate) struct Connections {
    open: mpsc::Sender<Infallible>,
    closed: mpsc::Receiver<Infallible>,
}

impl Connections {
    /// None yet.
    pub(crate) fn new() -> Self {
        let (open, closed) = mpsc::channel(1);
        Self { open, closed }
    }

    /// To be held by whoever has a connection open.
    pub(crate) fn token(&self) -> mpsc::Sender<Infallible> {
        self.open.clone()
    }

    /// Returns once every token is gone.
    pub(crate) async fn closed(self) {
        let Self { open, mut closed } = self;
        drop(open);
        let none = closed.recv().await;
        debug_assert!(none.is_none(), "nothing can be sent");
    }
}

/// Who is let in, and to what.
#[derive(Clone)]
pub(crate) enum Entrance {
    /// Whoever connects.
    Plain(Router),
    /// Those who prove who they are, each to what is theirs.
    Proven {
        /// Who this worker is.
        identity: Arc<Identity>,
        /// For a gateway.
        gateway: Router,
        /// For an operator.
        operator: Router,
        /// For everybody else who has a certificate.
        others: Router,
    },
}

impl Entrance {
    /// Errors: the client does not prove who it is.
    async fn open(self, stream: Unstalled) -> Result<(Stream<Unstalled>, Router), TlsError> {
        match self {
            Self::Plain(router) => Ok((Stream::plain(stream), router)),
            Self::Proven { identity, gateway, operator, others } => {
                let stream = identity.accept(Alpn::Http1, stream).await?;
                let router = match stream.peer().0 {
                    Some(Role::Gateway) => gateway,
                    Some(Role::Operator) => operator,
                    Some(Role::Worker) | None => others,
                };
                Ok((stream, router))
            }
        }
    }
}

/// Serves `entrance` until `ending` (if given) says so; then no connection is accepted, idle ones
/// are closed and busy ones after their answer.
pub(crate) async fn serve(
    listener: TcpListener,
    entrance: Entrance,
    ending: Option<Changes>,
    token: mpsc::Sender<Infallible>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = Connection {
                        entrance: entrance.clone(),
                        ending: ending.clone(),
                        _place: place,
                        _token: token.clone(),
                    };
                    tokio::spawn(connection.serve(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    match ending.clone() {
        None => accept.await,
        Some(mut ending) => tokio::select! {
            () = ending.ending() => {}
            () = accept => {}
        },
    }
}

struct Connection {
    entrance: Entrance,
    ending: Option<Changes>,
    _place: OwnedSemaphorePermit,
    _token: mpsc::Sender<Infallible>,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        // Chunks are small and each counts.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY");
        }
        let stream = Unstalled::new(stream, Duration::from_secs(STALL_SECONDS_MAX));
        let opened = tokio::select! {
            opened = self.entrance.open(stream) => opened,
            () = ending(&mut self.ending) => return,
        };
        let (stream, router) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::info!("a client was refused: {error:#}");
                return;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = ending(&mut self.ending) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// Returns once the member is to end; never for those that stay up.
async fn ending(changes: &mut Option<Changes>) {
    match changes {
        Some(changes) => changes.ending().await,
        None => std::future::pending().await,
    }
}
