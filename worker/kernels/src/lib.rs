//! Numbers in, numbers out: each op beside its plain reference.
//!
//! The noun of this crate is the *op*: a pure function over slices of numbers. Every op lives in
//! `ops/<op>/` as a plain `reference.rs` that is obviously right, one file per way of making it
//! fast, and one test that they agree.
//!
//! ```text
//! GGUF / safetensors bytes ── MatrixView ── PackedMatrix::pack (once, at load)
//!                                                │
//! hidden state ── Activations::fill (norm + int8) ── matmul ── rope ── KvPool::write ── attention
//! ```
//!
//! An op never knows of requests, files or models, starts no thread of its own (a [`ComputePool`]
//! is handed in) and on a processor gives the same bits for a token whatever else is in the batch
//! and however many threads there are.
#![allow(unsafe_code)]

mod cpu;
pub mod cuda;
mod dtype;
mod matrix;
mod ops;
mod pool;
mod shape;
mod simd;

pub use cpu::{Cpu, CpuLevel};
pub use dtype::DType;
pub use matrix::MatrixView;
pub use ops::add::{add, add_to_rows};
pub use ops::attention::{
    AttentionShape, AttentionSpan, KV_BLOCK_TOKENS, KvLayer, KvLayout, KvPool, KvSlot, attention,
};
pub use ops::dequantise::{dequantise, embed_row};
pub use ops::gate::{GateKind, gate};
pub use ops::logits::{argmax, log_sum_exp, softcap, softmax};
pub use ops::matmul::{Activations, MatmulOutput, PackedMatrix, Stretches, matmul};
pub use ops::norm::{layer_norm, rms_norm, rms_norm_one_plus};
pub use ops::rope::{RopePairs, RopeShape, rope};
pub use pool::{ComputePool, StartPoolError};
pub use shape::ShapeError;
