//! The OpenAI-compatible front door.
//!
//! It reads one field of a request, `model`, and passes everything else through untouched:
//!
//! ```text
//! accept ─► read body (bounded) ─► model ─► wait for an endpoint (bounded) ─► route::pick
//!                                             ▲                                  │
//!                                             └── nothing sent yet: try again ───┤
//!                                  client ◄── bytes as they come ◄── worker ◄────┘
//! ```
//!
//! What exists comes as whole [`naru_protocol::Snapshot`]s through a channel; how replicas are
//! chosen, started and stopped is not known here, nor what a token is.

mod api;
mod body;
mod connection;
mod fleet;
mod forward;
mod headers;
mod limits;
mod listen;
mod metrics;
mod ops;
mod relay;

pub use api::Gateway;
pub use connection::serve;
pub use limits::Limits;
pub use listen::{ListenError, bind};
pub use ops::{Readiness, ops_router};
