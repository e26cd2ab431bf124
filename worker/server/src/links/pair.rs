//! Two ranks that meet without a group, so that what is between them can be measured.

use std::sync::Arc;

use naru_engine::Parallelism;
use naru_protocol::tls::Identity;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::door::{GREETING, House};
use super::greeting::Party;
use super::group::Lost;
use super::meeting::connect;
use super::mesh::Mesh;

/// Of a pair there is no other generation.
const GENERATION: u64 = 1;

/// Which of the two ranks, and how it meets the other.
pub(crate) enum Side {
    /// Rank 0 waits there.
    Waits(TcpListener),
    /// Rank 1 comes to HOST:PORT.
    Comes(String),
}

/// Meets the other of two ranks of `parallelism`. Errors: it does not come, or is not there.
pub(crate) async fn meet(
    side: Side,
    parallelism: Parallelism,
    identity: Option<Arc<Identity>>,
) -> Result<Mesh, Lost> {
    let (rank, address) = match &side {
        Side::Waits(_) => (0, String::new()),
        Side::Comes(address) => (1, address.clone()),
    };
    let replica = "a pair".to_owned();
    let party = Party { replica, parallelism, rank, model: [0; 32], kv_blocks: 0 };
    let house = Arc::new(House { party, addresses: vec![address, String::new()], identity });
    let (sender, mut guests) = mpsc::channel(1);
    let generation = watch::Sender::new(GENERATION);
    if let Side::Waits(listener) = side {
        tokio::spawn(Arc::clone(&house).open(listener, sender, generation.subscribe()));
    }
    connect(&house, &mut guests, GENERATION, Instant::now() + GREETING * 2).await
}
