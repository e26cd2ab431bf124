//! What the ops have in common on a CUDA device.
//!
//! An op's `cuda.rs` turns sizes and places in device memory into [`Launch`]es, which are data: what
//! runs them is a GPU, or in the tests a shim on the host that has the same kernels as C++.

mod element;
mod launch;

pub use element::Element;
pub use launch::{Argument, DevicePointer, Launch};

pub use crate::ops::gate::cuda::{GateTask, gate};
pub use crate::ops::logits::cuda::{ArgmaxTask, CapLogitsTask, argmax, cap_logits};
pub use crate::ops::norm::cuda::{DeviceNorm, DeviceNormKind, ResidualNormTask, residual_norm};
pub use crate::ops::rope::cuda::{DeviceRope, RopeKvTask, rope_kv};
pub use crate::ops::sampling::cuda::{DeviceSampling, SampleTask, TokenChange, sample};
