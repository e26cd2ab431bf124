//! Connections: accepted up to a bound, given up when they are too slow, ended when draining.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::map_request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use naru_protocol::Unstalled;
use naru_protocol::tls::{Alpn, Connection as Stream, Identity, Role, TlsError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::TENANT;
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
    Plain {
        /// For this machine, on which a gateway may run.
        local: Router,
        /// For others: nothing proves that they are gateways.
        remote: Router,
    },
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
    /// For whoever connects; the tenant of a request is believed to this machine alone.
    pub(super) fn plain(router: Router) -> Self {
        Self::Plain { remote: nameless(router.clone()), local: router }
    }

    /// For those who prove who they are; the tenant of a request is believed to a gateway alone.
    pub(super) fn proven(identity: Arc<Identity>, api: Router, others: Router) -> Self {
        Self::Proven { identity, operator: nameless(api.clone()), gateway: api, others }
    }

    /// Errors: the client does not prove who it is.
    async fn open(
        self,
        stream: Unstalled,
        peer: IpAddr,
    ) -> Result<(Stream<Unstalled>, Router), TlsError> {
        match self {
            Self::Plain { local, remote } => {
                let router = if peer.to_canonical().is_loopback() { local } else { remote };
                Ok((Stream::plain(stream), router))
            }
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

/// The same for those who do not know whose request it is.
fn nameless(router: Router) -> Router {
    router.layer(map_request(async |mut request: Request| {
        request.headers_mut().remove(TENANT);
        request
    }))
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
                Ok((stream, peer)) => {
                    let connection = Connection {
                        entrance: entrance.clone(),
                        ending: ending.clone(),
                        _place: place,
                        _token: token.clone(),
                    };
                    tokio::spawn(connection.serve(stream, peer.ip()));
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
    async fn serve(mut self, stream: TcpStream, peer: IpAddr) {
        // Chunks are small and each counts.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY");
        }
        let stream = Unstalled::new(stream, Duration::from_secs(STALL_SECONDS_MAX));
        let opened = tokio::select! {
            opened = self.entrance.open(stream, peer) => opened,
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use bytes::Bytes;
    use http::HeaderMap;
    use http_body_util::{BodyExt, Full};
    use hyper::service::Service;

    use super::*;

    /// The tenant that is believed to a client at `peer`.
    async fn believed(peer: &str) -> String {
        let tenant = async |headers: HeaderMap| {
            headers.get(TENANT).map_or("nobody".to_owned(), |tenant| format!("{tenant:?}"))
        };
        let entrance = Entrance::plain(Router::new().route("/", get(tenant)));
        let (stream, _other_end) = connected().await;
        let stream = Unstalled::new(stream, Duration::from_secs(STALL_SECONDS_MAX));
        let (_, router) = entrance.open(stream, peer.parse().unwrap()).await.unwrap();
        let request = http::Request::get("/").header(TENANT, "saudi");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let answer = TowerToHyperService::new(router).call(request).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
    }

    /// Both ends of a connection.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    #[tokio::test]
    async fn only_this_machine_says_whose_request_it_is() {
        for here in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(believed(here).await, "\"saudi\"", "{here}");
        }
        for elsewhere in ["10.0.0.7", "192.168.1.2", "::ffff:10.0.0.7", "fd00::7", "0.0.0.0"] {
            assert_eq!(believed(elsewhere).await, "nobody", "{elsewhere}");
        }
    }
}
