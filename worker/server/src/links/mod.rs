//! Links between the ranks of a replica: processes that hold its shards, and meet over TCP.
//!
//! ```text
//! door, dial ── greeting ──▶ control (rank 0 and each other: who is there)
//!                       └──▶ wires ──▶ mesh: the engine's `Collective`
//! group: together ─▶ a rank is lost ─▶ apart ─▶ together, under the next generation
//! ```
//!
//! With an identity everything goes through mutual TLS between workers, values too.

mod control;
mod door;
mod greeting;
mod group;
mod meeting;
mod mesh;
mod message;
mod outbox;
mod pair;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use greeting::Party;
pub(crate) use group::{Group, Lost, Report, Told, Ways};
pub(crate) use mesh::Mesh;
pub(crate) use pair::{Side, meet};
