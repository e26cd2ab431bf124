//! What the ops have in common on a CUDA device.
//!
//! An op's `cuda.rs` turns sizes and places in device memory into [`Launch`]es, which are data:
//! what runs them is a GPU, or in the tests a shim on the host that has the same kernels as C++.

#[cfg(feature = "cuda")]
mod code;
mod device;
mod element;
mod error;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod graph;
mod launch;
#[cfg(feature = "cuda")]
mod library;
pub(crate) mod matrix;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod nccl;

pub use device::{Device, GroupId};
pub use element::Element;
pub use error::GpuError;
#[cfg(feature = "cuda")]
pub use gpu::{Description, Gpu};
#[cfg(feature = "cuda")]
pub use graph::Graph;
pub use launch::{Argument, DevicePointer, Launch, Product, ProductShape};
pub use matrix::{DeviceMatrix, WeightFormat, lay_out, lay_out_f8};
#[cfg(feature = "cuda")]
pub use nccl::Nccl;

pub use crate::ops::attention::cuda::{
    AttentionTask, WidenTask, decode_attention, decode_scratch_bytes, prefill_attention,
    widen_heads,
};
pub use crate::ops::dequantise::cuda::{EmbedTask, embed};
pub use crate::ops::gate::cuda::{GateTask, gate};
pub use crate::ops::logits::cuda::{CapLogitsTask, cap_logits};
pub use crate::ops::matmul::cuda::{LinearOutput, LinearPath, LinearTask, linear, linear_by};
pub use crate::ops::norm::cuda::{DeviceNorm, DeviceNormKind, ResidualNormTask, residual_norm};
pub use crate::ops::rope::cuda::{DeviceRope, RopeKvTask, rope_kv};
pub use crate::ops::sampling::cuda::{DeviceSampling, SampleTask, TokenChange, sample};
