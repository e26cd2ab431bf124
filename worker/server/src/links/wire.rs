//! One connection to one other rank: frames in order, under TLS where the ranks have proven who
//! they are.
//!
//! ```text
//! frame: kind (1 byte), 3 bytes of zeros, length of the payload (4 bytes, little-endian), payload
//! ```
//!
//! Values are floats, little-endian: of 64 bits what is to be summed, of 32 all else. One record
//! of TLS holds a frame's head and the first of its payload, so that a small message is one
//! record, one system call and one packet.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::Connection;

use super::outbox::Outbox;

/// Looking again and again before sleeping: a rank of the same speed is a few microseconds away,
/// and being woken takes longer.
const SPIN: Duration = Duration::from_micros(20);
const HEAD_BYTES: usize = 8;
/// Read from the network at a time.
const CAME_BYTES_MAX: usize = 64 << 10;
/// Payload of one frame: a whole step's hidden states and more.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// Of the reason that a rank gives for going away.
const REASON_BYTES_MAX: usize = 1 << 10;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A message of rank 0 to all.
    Broadcast = 1,
    /// Floats.
    Values = 2,
    /// Why the sender cannot go on; nothing comes after it.
    Abort = 3,
}

/// Why nothing more will come from a rank, or go to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// It said so itself.
    #[error("it gave up: {0}")]
    Aborted(String),
    /// It is at another place of the computation than this rank.
    #[error("a frame of kind {kind} and {bytes} bytes came where {expected:?} was due")]
    OutOfStep { kind: u8, bytes: usize, expected: (Kind, usize) },
}

/// Bytes from the network: all of the first are there, and those of `unread` are new.
struct Came {
    bytes: Vec<u8>,
    unread: Range<usize>,
}

/// The connection to one rank.
pub(super) struct Wire {
    socket: Arc<TcpStream>,
    tls: Option<Connection>,
    outbox: Outbox,
    /// What TLS made of a frame, or the frame itself; kept for its memory.
    sealed: Vec<u8>,
    /// What came and TLS has not taken yet: it takes little at a time, and system calls cost.
    came: Came,
    /// Waiting for the first byte of whatever was received, since it was asked last.
    pub(super) waited: Duration,
}

impl Wire {
    /// A wire over a connected socket that blocks, and its TLS session if it has one.
    pub(super) fn new(socket: TcpStream, mut tls: Option<Connection>) -> Self {
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(None);
        }
        let socket = Arc::new(socket);
        let outbox = Outbox::new(Arc::clone(&socket));
        let came = Came { bytes: vec![0; CAME_BYTES_MAX], unread: 0..0 };
        Self { socket, tls, outbox, sealed: Vec::new(), came, waited: Duration::ZERO }
    }

    /// What cuts this connection, whoever waits for it.
    pub(super) fn cutter(&self) -> Arc<TcpStream> {
        Arc::clone(&self.socket)
    }

    /// Sends a frame, without waiting for its receiver. Errors: the connection is gone.
    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), WireError> {
        let length =
            u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_BYTES_MAX);
        let Some(length) = length else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "a frame above its limit");
            return Err(WireError::Broken(error));
        };
        let mut head = [0; HEAD_BYTES];
        head[0] = kind as u8;
        head[4..].copy_from_slice(&length.to_le_bytes());
        self.sealed.clear();
        self.seal(&head, payload)
            .and_then(|()| self.outbox.send(&self.sealed))
            .map_err(WireError::Broken)
    }

    /// Writes head and payload, as they go over the network, into `sealed`.
    fn seal(&mut self, head: &[u8], payload: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            self.sealed.extend_from_slice(head);
            self.sealed.extend_from_slice(payload);
            return Ok(());
        };
        let taken = tls.writer().write_vectored(&[IoSlice::new(head), IoSlice::new(payload)])?;
        if taken != head.len() + payload.len() {
            return Err(io::Error::other("TLS took less than a frame"));
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.sealed)?;
        }
        Ok(())
    }

    /// Waits for a frame of `kind` that fills `payload`. Errors: another came, or none ever will.
    pub(super) fn receive(&mut self, kind: Kind, payload: &mut [u8]) -> Result<(), WireError> {
        let bytes = self.head(kind, Some(payload.len()))?;
        debug_assert_eq!(bytes, payload.len(), "the head was checked");
        self.read(payload).map_err(WireError::Broken)
    }

    /// Waits for a frame of `kind`, of any length, and puts it in place of `payload`.
    pub(super) fn receive_any(
        &mut self,
        kind: Kind,
        payload: &mut Vec<u8>,
    ) -> Result<(), WireError> {
        let bytes = self.head(kind, None)?;
        payload.clear();
        // Room is made for what has come, not for what is only announced.
        const PART: usize = 1 << 20;
        while payload.len() < bytes {
            let start = payload.len();
            payload.resize(bytes.min(start + PART), 0);
            self.read(&mut payload[start..]).map_err(WireError::Broken)?;
        }
        Ok(())
    }

    /// The length of the next frame, which must be as expected.
    fn head(&mut self, kind: Kind, bytes: Option<usize>) -> Result<usize, WireError> {
        let mut head = [0; HEAD_BYTES];
        self.read(&mut head).map_err(WireError::Broken)?;
        let [found, 0, 0, 0, length @ ..] = head else {
            let error = io::Error::new(io::ErrorKind::InvalidData, "no head of a frame");
            return Err(WireError::Broken(error));
        };
        let length = u32::from_le_bytes(length) as usize;
        if found == Kind::Abort as u8 && length <= REASON_BYTES_MAX {
            let mut reason = vec![0; length];
            self.read(&mut reason).map_err(WireError::Broken)?;
            return Err(WireError::Aborted(String::from_utf8_lossy(&reason).into_owned()));
        }
        let fits = bytes.map_or(length <= PAYLOAD_BYTES_MAX, |bytes| bytes == length);
        if found != kind as u8 || !fits {
            let expected = (kind, bytes.unwrap_or(PAYLOAD_BYTES_MAX));
            return Err(WireError::OutOfStep { kind: found, bytes: length, expected });
        }
        Ok(length)
    }

    /// Fills `into`. Errors: it never will be full.
    fn read(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        let mut socket = Patient { socket: &self.socket, waited: &mut self.waited };
        let Some(tls) = &mut self.tls else { return socket.read_exact(into) };
        while !into.is_empty() {
            match tls.reader().read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => into = &mut into[read..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.came.unread.is_empty() {
                        self.came.unread = 0..socket.read(&mut self.came.bytes)?;
                    }
                    let taken = tls.read_tls(&mut &self.came.bytes[self.came.unread.clone()])?;
                    if taken == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.came.unread.start += taken;
                    tls.process_new_packets().map_err(io::Error::other)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says why this rank goes away, if that is still possible.
    pub(super) fn abort(&mut self, reason: &str) {
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        // Whoever cannot hear it sees the connection end.
        let _ = self.send(Kind::Abort, &reason.as_bytes()[..end]);
    }
}

/// Reads from a socket: looks for a while, then sleeps until something is there.
struct Patient<'a> {
    socket: &'a TcpStream,
    waited: &'a mut Duration,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut began = None;
        loop {
            match recv(self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((read, _)) => {
                    *self.waited += began.map_or(Duration::ZERO, |began: Instant| began.elapsed());
                    return Ok(read);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let began = *began.get_or_insert_with(Instant::now);
                    if began.elapsed() >= SPIN {
                        let read = (&mut &*self.socket).read(buffer);
                        *self.waited += began.elapsed();
                        return read;
                    }
                    std::hint::spin_loop();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
