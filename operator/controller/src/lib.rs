//! The control loop, observe → plan → apply → report, and its worlds.
//!
//! ```text
//! files ──► machine::files ──► wishes ─┐
//!                                      ▼
//!            ┌────────── observe ◄── world ──► apply ──────────┐
//!            ▼                                                 │
//!     naru_plan::plan ──► actions ─────────────────────────────┘
//!            └──────────► conditions, snapshot, readiness ──► report
//! ```
//!
//! The loop is written once; a [`World`] is what it acts on. [`machine`] is one machine, whose
//! replicas are child processes.

pub mod machine;
mod reconcile;
mod report;
mod world;

pub use reconcile::{Controls, Outputs, run};
pub use report::Readiness;
pub use world::World;
