//! What goes out on a connection without ever making the sender wait for the receiver.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Bytes that may wait for one receiver; a rank that far behind is as good as lost.
const BACKLOG_BYTES_MAX: usize = 1 << 30;

/// Sends at once what the system takes at once; the rest goes out on a thread of its own, which is
/// started when it is first needed.
pub(super) struct Outbox {
    socket: Arc<TcpStream>,
    backlog: Arc<Backlog>,
    has_thread: bool,
}

#[derive(Default)]
struct Backlog {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    /// Of what waits and of what the thread is writing.
    bytes: usize,
    /// Nothing more will come.
    is_closed: bool,
    failed: Option<io::ErrorKind>,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, until the outbox is dropped and nothing waits any more.
    fn run(&self, socket: &TcpStream) {
        loop {
            let mut state = self.lock();
            let bytes = loop {
                if let Some(bytes) = state.waiting.pop_front() {
                    break bytes;
                }
                if state.is_closed {
                    return close(socket);
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let written = (&mut &*socket).write_all(&bytes);
            let mut state = self.lock();
            state.bytes -= bytes.len();
            if let Err(error) = written {
                state.failed = Some(error.kind());
                return close(socket);
            }
        }
    }
}

impl Outbox {
    pub(super) fn new(socket: Arc<TcpStream>) -> Self {
        Self { socket, backlog: Arc::default(), has_thread: false }
    }

    /// Sends `bytes` after all that was sent before. Errors: the connection is gone, or the
    /// receiver is too far behind.
    pub(super) fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut state = self.backlog.lock();
        if let Some(kind) = state.failed {
            return Err(kind.into());
        }
        while state.bytes == 0 && !bytes.is_empty() {
            match send(&*self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if state.bytes + bytes.len() > BACKLOG_BYTES_MAX {
            let words = format!("more than {BACKLOG_BYTES_MAX} bytes wait for it");
            return Err(io::Error::other(words));
        }
        state.bytes += bytes.len();
        state.waiting.push_back(bytes.to_vec());
        drop(state);
        self.backlog.changed.notify_one();
        if !self.has_thread {
            let (backlog, socket) = (Arc::clone(&self.backlog), Arc::clone(&self.socket));
            let name = "link".to_owned();
            thread::Builder::new().name(name).spawn(move || backlog.run(&socket))?;
            self.has_thread = true;
        }
        Ok(())
    }
}

impl Drop for Outbox {
    /// Whoever waits for this rank sees that it is gone, when all that was sent has gone out.
    fn drop(&mut self) {
        if self.has_thread {
            self.backlog.lock().is_closed = true;
            self.backlog.changed.notify_one();
        } else {
            close(&self.socket);
        }
    }
}

fn close(socket: &TcpStream) {
    // An error: it is closed already.
    let _ = socket.shutdown(Shutdown::Both);
}
