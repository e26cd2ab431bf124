//! What the last line of a worker's log tells programs, beside its words for people.
//!
//! A worker that cannot even begin has no gRPC to say why; the end of its log is all that is left
//! of it. What is wrong with weights is there as `weights_fault`, by the names of
//! [`WeightsFault`](crate::worker::v1::WeightsFault).

/// The field that names what is wrong with the machine.
pub const FAULT: &str = "fault";

/// There is no GPU that the worker can compute on.
pub const NO_USABLE_GPU: &str = "NO_USABLE_GPU";
