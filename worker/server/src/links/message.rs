//! Messages of `links.proto` on a connection, before values go over it.

use std::io;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The longest message: a hello with long names.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Writes one message.
pub(super) async fn write<W>(to: &mut W, message: &impl Message) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = length.to_le_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    to.write_all(&framed).await?;
    to.flush().await
}

/// Reads one message. Errors: the connection ended, or what came is none.
pub(super) async fn read<M, R>(from: &mut R) -> io::Result<M>
where
    M: Message + Default,
    R: AsyncRead + Unpin,
{
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        let words = format!("a message of {length} bytes; at most {MESSAGE_BYTES_MAX} are read");
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    M::decode(&*bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Does `act`, but not for longer than `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    act: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no end after {limit:?}"));
    timeout(limit, act).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use naru_protocol::links::v1::{Answer, Word};

    use super::*;

    #[tokio::test]
    async fn a_message_is_read_as_it_was_written() {
        let answer = Answer { refused: "no".to_owned() };
        let mut bytes = Vec::new();
        write(&mut bytes, &answer).await.unwrap();
        assert_eq!(read::<Answer, _>(&mut &*bytes).await.unwrap(), answer);
        let cut = read::<Answer, _>(&mut &bytes[..bytes.len() - 1]).await;
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let long = read::<Word, _>(&mut &u32::MAX.to_le_bytes()[..]).await.unwrap_err();
        assert_eq!(long.to_string(), "a message of 4294967295 bytes; at most 4096 are read");
        let other = read::<Word, _>(&mut &[3, 0, 0, 0, 255, 255, 255][..]).await.unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::InvalidData);
    }
}
