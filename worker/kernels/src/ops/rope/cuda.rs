//! Rope on a CUDA device, joined with what stands around it: parting and norming heads, and writing
//! keys and values to the cache.

use super::RopePairs;
use crate::cuda::{Argument, DeviceNorm, DevicePointer, Element, Launch};
use crate::ops::norm::cuda::are_aligned;
use crate::shape::{self, ShapeError};

const OP: &str = "rope";
const THREADS: usize = 256;
/// Pairs that a thread holds, and threads of a head at most.
const PAIRS: usize = 8;
const LANES_MAX: usize = 32;

/// The rotation of a layer's heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceRope {
    /// f32 pairs (cosine, sine) `[positions, rotary_dim / 2]`, an amplitude included.
    pub table: DevicePointer,
    /// Leading values of a head that are rotated. Even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Which of them are pairs.
    pub pairs: RopePairs,
}

/// Tokens whose projections are parted, normed, rotated and written to the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeKvTask {
    /// What all values are.
    pub element: Element,
    /// Tokens.
    pub rows: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of the keys, and of the values.
    pub kv_heads: usize,
    /// Values of a head, at most 512.
    pub head_dim: usize,
    /// `[rows, (heads + 2 kv_heads) * head_dim]`: queries, keys, values.
    pub input: DevicePointer,
    /// u32 `[rows]`: which row of the table.
    pub positions: DevicePointer,
    /// u32 `[rows]`: `block * 16 + place`; 0xffffffff: keys and values are not written.
    pub slots: DevicePointer,
    /// The norm of each query head, as wide as one.
    pub query_norm: Option<DeviceNorm>,
    /// Likewise of keys.
    pub key_norm: Option<DeviceNorm>,
    /// None: heads stay as they are.
    pub rope: Option<DeviceRope>,
    /// `[rows, heads, head_dim]`.
    pub queries: DevicePointer,
    /// This layer's `[blocks, kv_heads, 16, head_dim]`.
    pub keys: DevicePointer,
    /// Likewise.
    pub values: DevicePointer,
}

/// The launch for such tokens. Errors: a head is too large, or its rotated part does not fit it.
pub fn rope_kv(task: &RopeKvTask) -> Result<Launch, ShapeError> {
    let rotary_dim = task.rope.map_or(0, |rope| rope.rotary_dim);
    shape::multiple(OP, "rotary values", 2, rotary_dim)?;
    shape::at_most(OP, "rotary values", task.head_dim, rotary_dim)?;
    shape::at_most(OP, "head values", 2 * PAIRS * LANES_MAX, task.head_dim)?;
    let heads = task.rows.saturating_mul(task.heads + 2 * task.kv_heads);
    shape::to_u32(OP, "heads of all rows", heads)?;
    let half = rotary_dim / 2;
    let lanes = task.head_dim.div_ceil(2 * PAIRS).next_power_of_two();
    let places = [task.input, task.queries, task.keys, task.values];
    let is_vector = task.head_dim.is_multiple_of(2 * PAIRS)
        && half.is_multiple_of(PAIRS)
        && are_aligned(&places, [task.query_norm, task.key_norm]);
    let is_halves = task.rope.is_some_and(|rope| rope.pairs == RopePairs::Halves);
    let sizes = [task.rows, task.heads, task.kv_heads, task.head_dim, half];
    let mut arguments = vec![
        task.input.into(),
        task.positions.into(),
        task.slots.into(),
        task.rope.map_or(DevicePointer::NULL, |rope| rope.table).into(),
        task.queries.into(),
        task.keys.into(),
        task.values.into(),
    ];
    arguments.extend(sizes.map(|size| Argument::U32(size as u32)));
    arguments.extend([u32::from(is_halves), lanes as u32, u32::from(is_vector)].map(Argument::U32));
    arguments.extend(DeviceNorm::arguments(task.query_norm));
    arguments.extend(DeviceNorm::arguments(task.key_norm));
    Ok(Launch {
        op: OP,
        kernel: task.element.pick("rope_kv_bf16", "rope_kv_f16"),
        grid: [heads.div_ceil(THREADS / lanes) as u32, 1, 1],
        block: [THREADS as u32, 1, 1],
        shared_bytes: 0,
        arguments,
        product: None,
    })
}
