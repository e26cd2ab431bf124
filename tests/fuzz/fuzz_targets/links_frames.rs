//! What comes over a connection between two ranks: frames, read or refused.
#![no_main]

#[allow(dead_code)]
#[path = "../../../worker/server/src/links/outbox.rs"]
mod outbox;
#[allow(dead_code)]
#[path = "../../../worker/server/src/links/wire.rs"]
mod wire;

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use wire::{Kind, Wire};

/// What the reader waits for, by a byte of the input.
const KINDS: [Kind; 3] = [Kind::Broadcast, Kind::Values, Kind::Abort];

fuzz_target!(|bytes: &[u8]| {
    let Some((choices, frames)) = bytes.split_at_checked(8) else { return };
    // Ports would run out.
    let (mut sender, receiver) = UnixStream::pair().expect("two ends");
    let mut wire = Wire::new(TcpStream::from(OwnedFd::from(receiver)), None);
    sender.write_all(frames).expect("less than a socket holds");
    drop(sender);
    let mut payload = Vec::new();
    for choice in choices {
        let kind = KINDS[usize::from(*choice) % KINDS.len()];
        let read = match choice / 16 {
            0 => wire.receive_any(kind, &mut payload),
            bytes => {
                payload.resize(usize::from(bytes), 0);
                wire.receive(kind, &mut payload)
            }
        };
        if read.is_err() {
            return;
        }
        assert!(payload.len() <= frames.len(), "no more is read than came");
    }
});
