//! The first words on a port that speaks TLS, in bounded time.

use std::io;
use std::time::Duration;

use naru_protocol::Unstalled;
use naru_protocol::openai::ApiError;
use naru_protocol::tls::{Certificate, Connection, Handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::api::Gateway;

/// How a handshake begins: the type of a TLS record that holds one.
const HANDSHAKE_RECORD: u8 = 22;
/// How much of a plain request is read, so that its client reads the answer instead of an error of
/// its own writing.
const PLAIN_BYTES_MAX: u64 = 1 << 20;
/// And for how long.
const PLAIN_MAX: Duration = Duration::from_secs(2);

/// Agrees with a client on TLS, or counts why not. Who says nothing takes none of `places`, the
/// handshakes at one time, from others; nor is it counted that somebody came, said nothing and
/// left, which is how load balancers look whether a port is open.
pub(crate) async fn greet(
    gateway: &Gateway,
    certificate: &Certificate,
    places: &Semaphore,
    stream: TcpStream,
) -> Option<Connection<Unstalled>> {
    let limits = gateway.limits();
    let deadline = Instant::now() + limits.handshake;
    let agreed = async {
        match timeout_at(deadline, begins(&stream)).await {
            Ok(Ok(Some(HANDSHAKE_RECORD))) => {}
            Ok(Ok(Some(other))) => {
                refuse_plain(stream, other).await;
                return Err(Some(Handshake::NoTls));
            }
            Ok(Ok(None) | Err(_)) => return Err(None),
            Err(_) => return Err(Some(Handshake::TooSlow)),
        }
        let too_slow = |_| Some(Handshake::TooSlow);
        let place = timeout_at(deadline, places.acquire()).await.map_err(too_slow)?;
        let stream = Unstalled::new(stream, limits.write_stall);
        let accepted = certificate.accept(stream, deadline - Instant::now()).await;
        drop(place);
        accepted.map_err(Some)
    };
    match agreed.await {
        Ok(connection) => Some(connection),
        Err(reason) => {
            if let Some(reason) = reason {
                gateway.metrics().handshake_failed(reason);
                tracing::debug!(reason = reason.words(), "a client and TLS did not come together");
            }
            None
        }
    }
}

/// The first byte that a client sends, which stays there to be read; nothing when it left.
async fn begins(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut first = [0];
    let count = stream.peek(&mut first).await?;
    Ok((count > 0).then_some(first[0]))
}

/// Tells who speaks HTTP what is spoken here. Others, and who does not listen, are left.
async fn refuse_plain(mut stream: TcpStream, first: u8) {
    if !first.is_ascii_uppercase() {
        return;
    }
    let error = ApiError::tls_needed();
    let (status, body) = (error.status, error.to_json());
    let answer = format!(
        "HTTP/1.1 {status} Bad Request\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let telling = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(PLAIN_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(PLAIN_MAX, telling).await;
}
