//! Connects clients, of hyper or of tonic, to parties by address.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use super::{Alpn, Connection, Identity, Role};

/// The port of a URI without one.
const PORT: u16 = 80;

/// Opens connections: proven ones with an identity, plain ones without.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Who is calling; `None` for plain connections.
    pub identity: Option<Arc<Identity>>,
    /// Who must answer.
    pub server: Role,
    /// What is spoken inside.
    pub alpn: Alpn,
    /// Time for TCP to connect.
    pub connect: Duration,
}

impl Connector {
    async fn open(self, uri: Uri) -> io::Result<TokioIo<Connection<TcpStream>>> {
        let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(PORT);
        let connected = timeout(self.connect, TcpStream::connect((host, port))).await;
        let stream = connected.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        let connection = match &self.identity {
            None => Connection::plain(stream),
            Some(identity) => {
                identity.connect(self.alpn, self.server, stream).await.map_err(io::Error::other)?
            }
        };
        Ok(TokioIo::new(connection))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().open(uri))
    }
}
