//! Clients of a gRPC server, as tonic wants them: a stream of connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::{FuturesUnordered, StreamExt, unfold};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::{Alpn, Connection, Identity, TlsError, story};

/// Handshakes at one time; more clients wait in the listen queue.
const HANDSHAKES_MAX: usize = 256;
/// Pause after the system refused a connection, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The clients of `listener`: each has proven its role, or is plain where there is no identity.
/// Never ends and yields no error; whoever fails the handshake is a line in the log.
pub fn incoming(
    listener: TcpListener,
    identity: Option<Arc<Identity>>,
) -> impl Stream<Item = io::Result<Connection<TcpStream>>> {
    let state = (listener, identity, FuturesUnordered::new());
    unfold(state, |(listener, identity, mut handshakes)| async move {
        loop {
            tokio::select! {
                Some(done) = handshakes.next() => match done {
                    Ok(connection) => {
                        return Some((Ok(connection), (listener, identity, handshakes)));
                    }
                    Err(error) => refused(&error),
                },
                accepted = listener.accept(), if handshakes.len() < HANDSHAKES_MAX => {
                    match accepted {
                        Ok((stream, _)) => handshakes.push(greet(stream, identity.clone())),
                        Err(error) => {
                            tracing::warn!(%error, "accepting a connection");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
    })
}

async fn greet(
    stream: TcpStream,
    identity: Option<Arc<Identity>>,
) -> Result<Connection<TcpStream>, TlsError> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY");
    }
    match identity {
        None => Ok(Connection::plain(stream)),
        Some(identity) => identity.accept(Alpn::Http2, stream).await,
    }
}

fn refused(error: &TlsError) {
    tracing::info!(error = story(error), "a client was refused");
}
