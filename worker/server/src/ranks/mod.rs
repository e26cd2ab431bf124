//! Ranks of a replica of several: what a member does for those it holds, beside what every worker
//! does.
//!
//! ```text
//! rank 0       drive ─▶ engine ─▶ ShardedDecoder ─▶ mesh ◀─ serve_rank ◀─ thread     other ranks
//!                                        ▲ a new one whenever the ranks have met again ▲
//!                                        └───── a group for each rank ─────────────────┘
//! ```
//!
//! Each rank is a party of its own, with an address, a group and a mesh, also towards ranks of the
//! same member. A member is ready when all its ranks have met the others.

mod compute;
mod load;
mod part;
mod seat;
mod settings;

pub(crate) use load::{Ranks, load};
pub(crate) use seat::{Seat, open_seats};
pub(crate) use settings::RankSettings;
