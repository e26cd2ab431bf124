//! What the ops have in common on a CUDA device.
//!
//! An op's `cuda.rs` turns sizes and places in device memory into [`Launch`]es, which are data: what
//! runs them is a GPU, or in the tests a shim on the host that has the same kernels as C++.

mod element;
mod launch;
pub(crate) mod matrix;

pub use element::Element;
pub use launch::{Argument, DevicePointer, Launch};
pub use matrix::{DeviceMatrix, WeightFormat, lay_out, lay_out_f8};

pub use crate::ops::dequantise::cuda::{EmbedTask, embed};
pub use crate::ops::gate::cuda::{GateTask, gate};
pub use crate::ops::matmul::cuda::{LinearOutput, LinearPath, LinearTask, linear, linear_by};
