//! Every bound of the gateway, with its reason.

use std::time::Duration;

/// How much the gateway takes on, and how long it waits for whom.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest request body; a longer one is refused before it is read.
    pub body_bytes_max: usize,
    /// Bytes of all request bodies held at one time; beyond it new ones are refused.
    pub bodies_bytes_max: usize,
    /// Time for a client to send its body.
    pub body_read: Duration,
    /// Time for a client to send the head of a request, and for a connection to be idle.
    pub header_read: Duration,
    /// A client that takes nothing of its answer for this long is dropped.
    pub write_stall: Duration,
    /// Connections open at one time, and requests on those of HTTP/2; more connections wait to be
    /// accepted, more requests are refused.
    pub connections_max: usize,
    /// Requests at one time on one connection of HTTP/2.
    pub streams_max: u32,
    /// Time for a client to agree on TLS.
    pub handshake: Duration,
    /// Handshakes at one time, of clients that have begun theirs; more wait within that time.
    pub handshakes_max: usize,
    /// Requests waiting for an endpoint at one time; more are refused.
    pub waiting_max: usize,
    /// Longest wait of one request for an endpoint.
    pub wait: Duration,
    /// How often one request is sent to a worker before the client is told that it failed.
    pub attempts_max: usize,
    /// Time for a worker to accept a connection.
    pub connect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 8 << 20,
            bodies_bytes_max: 256 << 20,
            body_read: Duration::from_secs(30),
            header_read: Duration::from_secs(10),
            write_stall: Duration::from_secs(60),
            connections_max: 4096,
            streams_max: 100,
            handshake: Duration::from_secs(10),
            handshakes_max: 256,
            waiting_max: 1024,
            wait: Duration::from_secs(60),
            attempts_max: 8,
            connect: Duration::from_secs(2),
        }
    }
}
