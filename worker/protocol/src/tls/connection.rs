//! A connection that is plain or proven, to be read and written alike.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::transport::server::Connected;

use super::identity::{role_of, server_name};
use super::{Alpn, Identity, Role, TlsError};

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Who is at the other end: `None` on a plain connection, or one that asked nobody.
///
/// tonic puts it into the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub Option<Role>);

/// A stream between two parties.
#[derive(Debug)]
pub struct Connection<S> {
    stream: Stream<S>,
    peer: Peer,
}

#[derive(Debug)]
enum Stream<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

impl<S> Connection<S> {
    /// A connection without proof.
    pub const fn plain(stream: S) -> Self {
        Self { stream: Stream::Plain(stream), peer: Peer(None) }
    }

    /// Who is at the other end.
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// The stream, and the session that seals it if one does: for whoever goes on without tokio.
    /// What the session has read and nobody has taken yet is in it.
    pub fn into_parts(self) -> (S, Option<rustls::Connection>) {
        match self.stream {
            Stream::Plain(stream) => (stream, None),
            Stream::Tls(stream) => match *stream {
                TlsStream::Client(stream) => {
                    let (stream, session) = stream.into_inner();
                    (stream, Some(session.into()))
                }
                TlsStream::Server(stream) => {
                    let (stream, session) = stream.into_inner();
                    (stream, Some(session.into()))
                }
            },
        }
    }

    /// HTTP/2 was agreed on in the handshake.
    pub fn speaks_http2(&self) -> bool {
        match &self.stream {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    pub(super) fn tls(stream: impl Into<TlsStream<S>>, peer: Option<Role>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream.into())), peer: Peer(peer) }
    }
}

impl Identity {
    /// Serves a client that proves its role. Errors: it does not, or takes too long.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        alpn: Alpn,
        stream: S,
    ) -> Result<Connection<S>, TlsError> {
        let current = self.current();
        let config = match alpn {
            Alpn::Http1 => &current.server_http1,
            Alpn::Http2 => &current.server_http2,
            Alpn::Links => &current.server_links,
        };
        let stream = in_time(TlsAcceptor::from(config.clone()).accept(stream)).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let role = certificate.and_then(role_of).ok_or(TlsError::NoRole)?;
        Ok(Connection::tls(stream, Some(role)))
    }

    /// Serves a client that is none of the parties and proves nothing, over HTTP/1.1.
    pub async fn accept_anyone<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<Connection<S>, TlsError> {
        let acceptor = TlsAcceptor::from(self.current().server_open.clone());
        Ok(Connection::tls(in_time(acceptor.accept(stream)).await?, None))
    }

    /// Turns to a server that proves to be a `server`, whatever address it was dialled by.
    ///
    /// Whether the server accepts this identity shows only when something is read.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        alpn: Alpn,
        server: Role,
        stream: S,
    ) -> Result<Connection<S>, TlsError> {
        let current = self.current();
        let config = match alpn {
            Alpn::Http1 => &current.client_http1,
            Alpn::Http2 => &current.client_http2,
            Alpn::Links => &current.client_links,
        };
        let connector = TlsConnector::from(config.clone());
        let stream = in_time(connector.connect(server_name(server), stream)).await?;
        Ok(Connection::tls(stream, Some(server)))
    }
}

async fn in_time<T>(handshake: impl Future<Output = io::Result<T>>) -> Result<T, TlsError> {
    match timeout(HANDSHAKE, handshake).await {
        Ok(done) => done.map_err(TlsError::Handshake),
        Err(_) => Err(TlsError::TooSlow),
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl<S> connect::Connection for Connection<S> {
    fn connected(&self) -> connect::Connected {
        connect::Connected::new()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
