//! The OpenAI-compatible front door.
//!
//! It reads a request's key and one field of its body, `model`, and passes everything else through
//! untouched:
//!
//! ```text
//! key ─► tenant, quota ─► read body (bounded) ─► model ─► wait for an endpoint (bounded) ─► pick
//!                                                           ▲                                │
//!                                                           └── nothing sent yet: try again ─┤
//!                                                client ◄── bytes as they come ◄── worker ◄──┘
//! ```
//!
//! What exists comes as whole [`naru_protocol::Snapshot`]s through a channel; how replicas are
//! chosen, started and stopped is not known here, nor what a token is. They come from the loop in
//! the same process, or from an operator that a [`Follower`] follows.

mod api;
mod body;
mod connection;
mod demand;
mod fleet;
mod follow;
mod forward;
mod greet;
mod headers;
mod held;
mod keys;
mod limits;
mod listen;
mod metrics;
mod ops;
mod quota;
mod relay;
mod span;
mod store;
mod streams;

pub use api::Gateway;
pub use connection::serve;
pub use follow::{FollowConfig, Follower};
pub use keys::KeyRule;
pub use limits::Limits;
pub use listen::{Entrance, ListenError, Reach, bind};
pub use ops::{Readiness, ops_router};
