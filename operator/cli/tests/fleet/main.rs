//! Operators and gateways as they stand in a cluster: both halves of `Follow` together.
#![allow(clippy::unwrap_used)] // all of this is a test, also what is no #[test] function

mod door;
mod leaders;
mod proven;
