//! What gateway, operator and workers say to each other.
//!
//! - [`worker::v1`]: the gRPC between the control side and one member (`Status`, `Drain`).
//! - [`openai`]: requests as clients send them, read strictly, and the answers and errors they
//!   get. Gateway and worker refuse with the same words because both refuse through here.
//! - [`Snapshot`]: which models exist, where, and who may use them, as the control side tells the
//!   gateway; [`control::v1`] is the gRPC by which it does (`Follow`).
//! - [`log`]: what the last line of a worker's log tells programs.
//! - [`tls`]: how they prove to each other who they are.
//! - [`process`]: what each says of what it uses itself.
//! - [`Unstalled`]: how both treat a peer that stopped reading.

pub mod log;
pub mod openai;
pub mod process;
mod snapshot;
pub mod tls;
mod unstalled;

pub use snapshot::{
    Access, Endpoint, InvalidDigest, InvalidSnapshot, KeyDigest, ModelEndpoints, Snapshot,
    SnapshotVersion, TenantKey, TenantKeys,
};
pub use unstalled::Unstalled;

/// The gRPC of a member.
pub mod worker {
    /// Version 1, generated from `proto/naru/worker/v1/worker.proto`.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("naru.worker.v1");
    }
}

/// What the members of one replica say to each other when they meet.
pub mod links {
    /// Version 1, generated from `proto/naru/links/v1/links.proto`.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/naru.links.v1.rs"));
    }
}

/// The gRPC between the operator's leader and gateways.
pub mod control {
    /// Version 1, generated from `proto/naru/control/v1/control.proto`.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("naru.control.v1");
    }
}
