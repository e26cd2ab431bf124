//! [`attention`](super::attention) on a CUDA device.

use std::f64::consts::LOG2_E;

use super::{AttentionShape, KV_BLOCK_TOKENS};
use crate::cuda::{Argument, DevicePointer, Element, Launch};
use crate::shape::{self, ShapeError};

const OP: &str = "attention";
const HEAD_DIM_MAX: usize = 256;
const HEAD_DIM_STEP: usize = 16;
/// Query heads that a block of decoding takes together.
const TILE_HEADS: usize = 16;
const DECODE_THREADS: u32 = 128;
const COMBINE_THREADS: u32 = 256;
const PREFILL_THREADS: u32 = 128;
const WIDEN_THREADS: u32 = 128;
/// Values of a vector.
const VECTOR: usize = 8;
/// Blocks of decoding that a large device has room for at once: 132 multiprocessors with two each.
const DECODE_BLOCKS: usize = 264;
/// Keys in a split: not fewer, as the kernel knows too, for each costs a pass over its result; nor
/// more, so that one long sequence among short ones is not left to one block.
const SPLIT_KEYS_MIN: usize = 256;
const SPLIT_KEYS_MAX: usize = 8192;

/// Queries of a batch over the paged keys and values of one layer. Every place but that of the
/// tables is at a multiple of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionTask<'a> {
    /// What queries, keys, values and output are.
    pub element: Element,
    /// The heads; their size is a multiple of 16 of at most 256, the scale above 0.
    pub shape: &'a AttentionShape,
    /// `[rows, heads, head_dim]`.
    pub queries: DevicePointer,
    /// `[blocks, kv_heads, 16, head_dim]`, those of the queries' own tokens written before.
    pub keys: DevicePointer,
    /// As `keys`.
    pub values: DevicePointer,
    /// `[rows, heads, head_dim]`; rows outside the spans stay as they are.
    pub output: DevicePointer,
    /// `u32 [count, 4]`: first row, tokens (0: nothing is done), position of the first token, and
    /// where in `tables` the sequence's blocks from position 0 on are.
    pub spans: DevicePointer,
    /// `u32`: blocks of sequences.
    pub tables: DevicePointer,
    /// Spans.
    pub count: usize,
    /// The most tokens that a span has.
    pub rows_max: usize,
    /// The most that position + tokens of a span is. As `rows_max` it decides the launch alone:
    /// what the device reads of the spans may change within both.
    pub keys_max: usize,
    /// [`decode_scratch_bytes`] for decoding.
    pub scratch: DevicePointer,
}

/// The launches of attention for spans of one token, or none, each. Errors: the heads do not fit,
/// or a size is beyond a grid.
pub fn decode_attention(task: &AttentionTask<'_>) -> Result<Vec<Launch>, ShapeError> {
    let heads = Heads::of(task.shape)?;
    let splits = shape::to_u32(OP, "splits", decode_splits(task.count, task.shape, task.keys_max))?;
    let tiles = heads.kv_heads as usize * group(task.shape).div_ceil(TILE_HEADS);
    let count = shape::grid_rows(OP, "spans", task.count)?;
    let by_size = match task.shape.head_dim {
        ..=64 => task.element.pick("attention_decode_64_bf16", "attention_decode_64_f16"),
        65..=128 => task.element.pick("attention_decode_128_bf16", "attention_decode_128_f16"),
        _ => task.element.pick("attention_decode_256_bf16", "attention_decode_256_f16"),
    };
    let part = Launch {
        op: OP,
        kernel: by_size,
        grid: [splits, shape::grid_rows(OP, "tiles of heads", tiles)?, count],
        block: [DECODE_THREADS, 1, 1],
        shared_bytes: 0,
        arguments: arguments(task, &heads, &[task.scratch.into()]),
        product: None,
    };
    if splits == 1 {
        return Ok(vec![part]);
    }
    let combine = Launch {
        op: OP,
        kernel: task.element.pick("attention_combine_bf16", "attention_combine_f16"),
        grid: [heads.heads, count, 1],
        block: [COMBINE_THREADS, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            task.scratch.into(),
            task.output.into(),
            task.spans.into(),
            splits.into(),
            heads.head_dim.into(),
            heads.window.into(),
        ],
        product: None,
    };
    Ok(vec![part, combine])
}

/// The launch of attention for spans of any number of tokens. Errors: the heads do not fit, or a
/// size is beyond a grid.
pub fn prefill_attention(task: &AttentionTask<'_>) -> Result<Launch, ShapeError> {
    let heads = Heads::of(task.shape)?;
    // Dimensions, rows and keys of a tile, as the kernel has them.
    let (by_size, dim, rows, keys) = match task.shape.head_dim {
        ..=64 => (("attention_prefill_64_bf16", "attention_prefill_64_f16"), 64, 128, 64),
        65..=128 => (("attention_prefill_128_bf16", "attention_prefill_128_f16"), 128, 128, 48),
        _ => (("attention_prefill_256_bf16", "attention_prefill_256_f16"), 256, 64, 32),
    };
    let tiles = shape::to_u32(OP, "rows", task.rows_max)?.div_ceil(rows);
    let grid_heads = shape::grid_rows(OP, "query heads", task.shape.heads)?;
    Ok(Launch {
        op: OP,
        kernel: task.element.pick(by_size.0, by_size.1),
        grid: [tiles, grid_heads, shape::grid_rows(OP, "spans", task.count)?],
        block: [PREFILL_THREADS, 1, 1],
        // The queries, and keys and values twice: one tile is copied while another is used.
        shared_bytes: (rows + 4 * keys) * dim * Element::BYTES as u32,
        arguments: arguments(task, &heads, &[]),
        product: None,
    })
}

/// Heads to be put among columns that are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WidenTask {
    /// Rows of both.
    pub rows: usize,
    /// Values of a row of heads, a multiple of 8.
    pub width: usize,
    /// Columns in front of the heads, a multiple of 8.
    pub lead: usize,
    /// Columns in all, a multiple of 8.
    pub columns: usize,
    /// Element `[rows, width]`, at a multiple of 16 bytes.
    pub input: DevicePointer,
    /// Element `[rows, columns]`, likewise.
    pub output: DevicePointer,
}

/// The launch that widens rows of heads. Errors: sizes that are not whole vectors; heads that end
/// behind the columns; more rows than a grid has.
pub fn widen_heads(task: &WidenTask) -> Result<Launch, ShapeError> {
    let vectors = |what, values| {
        shape::multiple(OP, what, VECTOR, values)?;
        shape::to_u32(OP, what, values / VECTOR)
    };
    shape::at_most(OP, "columns of heads", task.columns, task.lead.saturating_add(task.width))?;
    let columns = vectors("columns", task.columns)?;
    let width = vectors("values of heads", task.width)?;
    let lead = vectors("columns in front", task.lead)?;
    Ok(Launch {
        op: OP,
        kernel: "attention_widen",
        grid: [columns.div_ceil(WIDEN_THREADS), shape::grid_rows(OP, "rows", task.rows)?, 1],
        block: [WIDEN_THREADS, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            task.input.into(),
            task.output.into(),
            width.into(),
            columns.into(),
            lead.into(),
        ],
        product: None,
    })
}

/// Bytes of scratch that [`decode_attention`] of so many spans needs; 0 if it needs none.
pub fn decode_scratch_bytes(count: usize, shape: &AttentionShape, keys_max: usize) -> usize {
    let splits = decode_splits(count, shape, keys_max);
    let sums = count * shape.heads * splits;
    // A sum of values, the greatest score and the total weight.
    if splits == 1 { 0 } else { sums * (shape.head_dim + 2) * size_of::<f32>() }
}

/// In how many parts at most the keys of a span are read.
fn decode_splits(count: usize, shape: &AttentionShape, keys_max: usize) -> usize {
    // A window that begins inside a block reads up to a block more.
    let seen = |window: usize| window.saturating_add(KV_BLOCK_TOKENS - 1).min(keys_max);
    let keys = shape.window.map_or(keys_max, seen);
    let blocks = count * shape.kv_heads * group(shape).div_ceil(TILE_HEADS);
    let to_fill = DECODE_BLOCKS / blocks.max(1);
    let to_even = keys.div_ceil(SPLIT_KEYS_MAX);
    to_fill.max(to_even).min(keys.div_ceil(SPLIT_KEYS_MIN)).max(1)
}

fn group(shape: &AttentionShape) -> usize {
    shape.heads / shape.kv_heads.max(1)
}

/// An [`AttentionShape`] as kernels take it.
struct Heads {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    window: u32,
}

impl Heads {
    fn of(shape: &AttentionShape) -> Result<Self, ShapeError> {
        shape::multiple(OP, "query heads", shape.kv_heads, shape.heads)?;
        shape::multiple(OP, "head size", HEAD_DIM_STEP, shape.head_dim.max(1))?;
        shape::at_most(OP, "head size", HEAD_DIM_MAX, shape.head_dim)?;
        Ok(Self {
            heads: shape::to_u32(OP, "query heads", shape.heads)?,
            kv_heads: shape::to_u32(OP, "key-value heads", shape.kv_heads)?,
            head_dim: shape::to_u32(OP, "head size", shape.head_dim)?,
            // A kernel takes no window as 0, and one beyond all positions is as none.
            window: shape
                .window
                .map_or(0, |window| i32::try_from(window).map_or(0, i32::cast_unsigned)),
        })
    }
}

/// What decoding and prefill take, with what only one of them does after the pointers.
fn arguments(task: &AttentionTask<'_>, heads: &Heads, own: &[Argument]) -> Vec<Argument> {
    let places = [task.queries, task.keys, task.values, task.output, task.spans, task.tables];
    let mut arguments: Vec<Argument> = places.into_iter().map(Argument::from).collect();
    arguments.extend_from_slice(own);
    let sizes = [heads.heads, heads.kv_heads, heads.head_dim, heads.window];
    arguments.extend(sizes.map(Argument::from));
    arguments.extend(scores(task.shape).map(Argument::from));
    arguments
}

/// The scale and the cap of scores as exponents of 2; with a cap the scale is of an exponent that
/// tanh is made from.
fn scores(shape: &AttentionShape) -> [f32; 2] {
    let scale = f64::from(shape.scale) * LOG2_E;
    let Some(cap) = shape.softcap.map(f64::from) else { return [scale as f32, 0.0] };
    [(2.0 * scale / cap) as f32, (cap * LOG2_E) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: AttentionShape = AttentionShape {
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        scale: 0.125,
        window: None,
        softcap: None,
    };

    fn task(shape: &AttentionShape, count: usize, keys_max: usize) -> AttentionTask<'_> {
        let nowhere = DevicePointer::NULL;
        AttentionTask {
            element: Element::F16,
            shape,
            queries: nowhere,
            keys: nowhere,
            values: nowhere,
            output: nowhere,
            spans: nowhere,
            tables: nowhere,
            count,
            rows_max: 300,
            keys_max,
            scratch: nowhere,
        }
    }

    #[test]
    fn splits_fill_the_device_and_no_more() {
        let window = AttentionShape { window: Some(1000), ..SHAPE };
        for (shape, count, keys_max, splits) in [
            (SHAPE, 1, 32 << 10, 33),
            (SHAPE, 1, 600, 3),
            (SHAPE, 8, 8 << 10, 4),
            (SHAPE, 64, 4 << 10, 1),
            (SHAPE, 64, 100 << 10, 13),
            (window, 1, 32 << 10, 4),
            (SHAPE, 1, 0, 1),
        ] {
            let launches = decode_attention(&task(&shape, count, keys_max)).unwrap();
            assert_eq!(launches[0].grid, [splits, 8, count as u32], "{count} x {keys_max}");
            assert_eq!(launches.len(), if splits == 1 { 1 } else { 2 });
            let bytes = if splits == 1 { 0 } else { count * 32 * splits as usize * 130 * 4 };
            assert_eq!(decode_scratch_bytes(count, &shape, keys_max), bytes);
        }
    }

    #[test]
    fn tiles_are_as_many_as_the_longest_span_needs() {
        let launch = prefill_attention(&task(&SHAPE, 5, 1000)).unwrap();
        assert_eq!((launch.grid, launch.shared_bytes), ([3, 32, 5], 80 << 10));
        let wide = AttentionShape { head_dim: 256, ..SHAPE };
        let launch = prefill_attention(&task(&wide, 5, 1000)).unwrap();
        assert_eq!((launch.grid, launch.shared_bytes), ([5, 32, 5], 96 << 10));
    }

    #[test]
    fn heads_that_do_not_fit_are_refused() {
        for (heads, kv_heads, head_dim) in [(32, 5, 128), (32, 0, 128), (8, 8, 272), (8, 8, 40)] {
            let shape = AttentionShape { heads, kv_heads, head_dim, ..SHAPE };
            assert!(decode_attention(&task(&shape, 1, 1)).is_err());
            assert!(prefill_attention(&task(&shape, 1, 1)).is_err());
        }
        assert!(decode_attention(&task(&SHAPE, 1 << 16, 1)).is_err());
    }

    #[test]
    fn heads_are_widened_by_whole_vectors() {
        let (input, output) = (DevicePointer(64), DevicePointer(128));
        let task = WidenTask { rows: 3, width: 64, lead: 192, columns: 256, input, output };
        assert_eq!(widen_heads(&task).unwrap().grid, [1, 3, 1]);
        for wrong in [
            WidenTask { lead: 4, ..task },
            WidenTask { lead: 200, ..task },
            WidenTask { width: 60, ..task },
            WidenTask { columns: 260, ..task },
            WidenTask { rows: 1 << 16, ..task },
        ] {
            assert!(widen_heads(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn caps_and_windows_become_what_kernels_take() {
        let log2_e = std::f32::consts::LOG2_E;
        assert_eq!(scores(&SHAPE), [0.125 * log2_e, 0.0]);
        let capped = AttentionShape { softcap: Some(0.25), ..SHAPE };
        assert_eq!(scores(&capped), [log2_e, 0.25 * log2_e]);
        for (window, taken) in [(None, 0), (Some(7), 7), (Some(usize::MAX), 0)] {
            let shape = AttentionShape { window, ..SHAPE };
            assert_eq!(Heads::of(&shape).unwrap().window, taken);
        }
    }
}
