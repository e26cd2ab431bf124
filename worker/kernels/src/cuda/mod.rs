//! What the ops have in common on a CUDA device.
//!
//! An op's `cuda.rs` turns sizes and places in device memory into [`Launch`]es, which are data: what
//! runs them is a GPU, or in the tests a shim on the host that has the same kernels as C++.

mod element;
mod launch;

pub use element::Element;
pub use launch::{Argument, DevicePointer, Launch};

pub use crate::ops::attention::cuda::{
    AttentionTask, decode_attention, decode_scratch_bytes, prefill_attention,
};
pub use crate::ops::gate::cuda::{GateTask, gate};
