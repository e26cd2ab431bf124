//! The control loop, observe → plan → apply → report, and its worlds.
//!
//! ```text
//! files ──► machine::files ──► wishes ─┐
//!                                      ▼
//!            ┌────────── observe ◄── world ──► apply ──────────┐
//!            ▼                                                 │
//!   power::plan (all), plan (each) ──► actions ────────────────┘
//!            └──────────► conditions, snapshot, readiness ──► report
//! ```
//!
//! The loop is written once; a [`World`] is what it acts on. [`machine`] is one machine, whose
//! replicas are child processes and whose wishes are files. [`kubernetes`] is a cluster, whose
//! replicas are StatefulSets and whose wishes are custom resources; there [`election`] lets one
//! operator act at a time.

mod agenda;
mod arguments;
pub mod certificates;
mod clock;
mod demand;
pub mod election;
pub mod kubernetes;
mod last_words;
pub mod machine;
mod member;
mod models;
mod power;
mod power_metrics;
mod publish;
mod reconcile;
mod report;
mod scale;
mod tenants;
pub mod webhook;
mod world;

pub use clock::wall_clock;
pub use demand::{Demand, Demands, Wanted};
pub use models::KnownModels;
pub use power_metrics::PowerMetrics;
pub use publish::Publisher;
pub use reconcile::{Controls, Outputs, run};
pub use report::Readiness;
pub use world::{Changed, Decision, Done, Outcome, World};
