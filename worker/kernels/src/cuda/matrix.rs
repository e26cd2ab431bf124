//! Weights as a device holds them.
//!
//! Rows follow one another, so that a stack of projections is their bytes one after the other. A
//! row is split into planes, each at a multiple of 16 bytes: the weights' own bits first, so that
//! the lanes of a warp read 16 bytes each, one behind the other; then further bits, then scales.
//! `ops/matmul/blocks.cuh` reads them back.
//!
//! ```text
//! F32 F16 Bf16   values, zeros up to a multiple of 32
//! F8E4M3         values, zeros up to a multiple of 32 | f32 scale
//! Q8_0           int8 [columns] | f16 d [blocks]
//! Q4_0 Q4_1      nibbles | f16 d or d, m [blocks]
//! Q5_0 Q5_1      nibbles | u32 fifth bits [blocks] | f16 d or d, m [blocks]
//! Q4_K           nibbles | 16 bytes d, dmin, scales [superblocks]
//! Q5_K           nibbles | u32 fifth bits [blocks] | 16 bytes d, dmin, scales [superblocks]
//! Q6_K           nibbles | u64 upper pairs [blocks] | int8 scales [2 blocks] | f16 d [superblocks]
//! ```
//!
//! A block is 32 values, of K-quants too; value `i` of it stands in bits `4 i` of 16 bytes of
//! nibbles, in bit `i` of its fifth bits, in bits `2 i` of its upper pairs. That is the one
//! difference from the file's bits: there each format has an order of its own.

use std::ops::Range;

use super::DevicePointer;
use crate::dtype::DType;
use crate::matrix::MatrixView;
use crate::shape::{self, ShapeError};

const OP: &str = "lay out weights";

/// Where a plane of a row may begin.
const PLANE_BYTES: usize = 16;

/// The greatest value of E4M3 without infinities.
const F8_MAX: f32 = 448.0;

/// A format of weights on a device.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
    /// 8-bit floats with 4 bits of exponent, and a 32-bit scale of the row. Source: FP8 Formats for
    /// Deep Learning (2022).
    F8E4M3,
}

impl From<DType> for WeightFormat {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::Bf16,
            DType::Q4_0 => Self::Q4_0,
            DType::Q4_1 => Self::Q4_1,
            DType::Q5_0 => Self::Q5_0,
            DType::Q5_1 => Self::Q5_1,
            DType::Q8_0 => Self::Q8_0,
            DType::Q4_K => Self::Q4_K,
            DType::Q5_K => Self::Q5_K,
            DType::Q6_K => Self::Q6_K,
        }
    }
}

impl WeightFormat {
    /// Every format, in the order of the enum.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::F8E4M3,
    ];

    /// Columns come in multiples of this.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4M3 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of each plane of a row, before they are rounded up to where the next may begin.
    fn planes(self, columns: usize) -> [usize; 4] {
        let (blocks, superblocks) = (columns / 32, columns / 256);
        let values = columns.next_multiple_of(32);
        match self {
            Self::F32 => [4 * values, 0, 0, 0],
            Self::F16 | Self::Bf16 => [2 * values, 0, 0, 0],
            Self::F8E4M3 => [values, 4, 0, 0],
            Self::Q8_0 => [columns, 2 * blocks, 0, 0],
            Self::Q4_0 => [columns / 2, 2 * blocks, 0, 0],
            Self::Q4_1 => [columns / 2, 4 * blocks, 0, 0],
            Self::Q5_0 => [columns / 2, 4 * blocks, 2 * blocks, 0],
            Self::Q5_1 => [columns / 2, 4 * blocks, 4 * blocks, 0],
            Self::Q4_K => [columns / 2, 16 * superblocks, 0, 0],
            Self::Q5_K => [columns / 2, 4 * blocks, 16 * superblocks, 0],
            Self::Q6_K => [columns / 2, 8 * blocks, 2 * blocks, 2 * superblocks],
        }
    }
}

/// Weights in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceMatrix {
    /// What a row looks like.
    pub format: WeightFormat,
    /// Outputs of a projection, entries of an embedding table.
    pub rows: usize,
    /// Values of a row.
    pub columns: usize,
    /// [`bytes`](Self::bytes) of them, at a multiple of 16.
    pub pointer: DevicePointer,
}

impl DeviceMatrix {
    /// From a row to the next, a multiple of 16. None where columns are not whole blocks or more
    /// than a kernel counts.
    pub fn row_bytes(format: WeightFormat, columns: usize) -> Option<usize> {
        let is_whole = columns.is_multiple_of(format.block_elements());
        // A row's bytes, at most 4 a value, are counted in 32 bits.
        if !is_whole || columns > u32::MAX as usize / 8 {
            return None;
        }
        let planes = format.planes(columns).into_iter();
        Some(planes.map(|plane| plane.next_multiple_of(PLANE_BYTES)).sum())
    }

    /// Bytes of a matrix. None where they do not fit in memory, and as
    /// [`row_bytes`](Self::row_bytes).
    pub fn bytes(format: WeightFormat, rows: usize, columns: usize) -> Option<usize> {
        Self::row_bytes(format, columns)?.checked_mul(rows)
    }
}

/// The bytes of a row, or what is wrong with its columns.
pub(crate) fn checked_row_bytes(
    op: &'static str,
    format: WeightFormat,
    columns: usize,
) -> Result<usize, ShapeError> {
    shape::multiple(op, "columns", format.block_elements(), columns)?;
    let limit = u32::MAX as usize / 8;
    let too_wide = ShapeError::Limit { op, what: "columns", limit, found: columns };
    DeviceMatrix::row_bytes(format, columns).ok_or(too_wide)
}

/// Writes the rows of `view` as a device holds them into `out`. Rows do not know of each other:
/// parts of a matrix may be laid out by as many threads. Errors: `out` has another length than the
/// rows need.
pub fn lay_out(view: &MatrixView<'_>, out: &mut [u8]) -> Result<(), ShapeError> {
    let format = WeightFormat::from(view.dtype());
    let row_bytes = checked_row_bytes(OP, format, view.columns())?;
    shape::exactly(OP, "bytes", row_bytes * view.rows(), out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    let planes = plane_ranges(format, view.columns());
    out.fill(0);
    for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
        let bytes = view.row(row);
        if view.dtype().block_elements() == 1 {
            out[..bytes.len()].copy_from_slice(bytes);
            continue;
        }
        let blocks = bytes.chunks_exact(view.dtype().block_bytes());
        for (index, block) in blocks.enumerate() {
            lay_out_block(view.dtype(), block, index, out, &planes);
        }
    }
    Ok(())
}

/// Writes rows of `columns` values as 8-bit floats, each row scaled so that its greatest magnitude
/// is the greatest there is. Errors: `values` are not whole rows; `out` has another length.
pub fn lay_out_f8(values: &[f32], columns: usize, out: &mut [u8]) -> Result<(), ShapeError> {
    shape::multiple(OP, "values", columns, values.len())?;
    let format = WeightFormat::F8E4M3;
    let row_bytes = checked_row_bytes(OP, format, columns)?;
    shape::exactly(OP, "bytes", values.len() / columns * row_bytes, out.len())?;
    let [_, scale_at, ..] = plane_ranges(format, columns);
    out.fill(0);
    for (row, out) in values.chunks_exact(columns).zip(out.chunks_exact_mut(row_bytes)) {
        let scale = row.iter().fold(0f32, |max, x| max.max(x.abs())) / F8_MAX;
        out[scale_at.clone()].copy_from_slice(&scale.to_le_bytes());
        if scale > 0.0 {
            row.iter().zip(out).for_each(|(x, out)| *out = to_f8(x / scale));
        }
    }
    Ok(())
}

/// To the nearest 8-bit float, ties to even, at most the greatest there is.
fn to_f8(x: f32) -> u8 {
    let size = x.abs().min(F8_MAX);
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    // Three bits behind the point; below 2^-6 the unit stays 2^-9.
    let exponent = ((size.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (size * 2f32.powi(3 - exponent)).round_ties_even() as i32;
    // Steps are 8 to 16, less below 2^-6; a carry goes into the exponent by itself.
    sign | ((exponent + 6) * 8 + steps) as u8
}

/// Where the planes of a row are.
fn plane_ranges(format: WeightFormat, columns: usize) -> [Range<usize>; 4] {
    let mut first = 0;
    format.planes(columns).map(|bytes| {
        let range = first..first + bytes;
        first += bytes.next_multiple_of(PLANE_BYTES);
        range
    })
}

/// Writes `part` as number `index` of its like into a plane.
fn put(out: &mut [u8], plane: &Range<usize>, index: usize, part: &[u8]) {
    let at = plane.start + index * part.len();
    out[at..at + part.len()].copy_from_slice(part);
}

/// Writes block `index` of a row: of 32 values, or a superblock of 256.
fn lay_out_block(
    dtype: DType,
    block: &[u8],
    index: usize,
    out: &mut [u8],
    [first, second, third, fourth]: &[Range<usize>; 4],
) {
    if dtype == DType::Q8_0 {
        put(out, first, index, &block[2..34]);
        return put(out, second, index, &block[..2]);
    }
    let mut levels = [0; 256];
    let levels = &mut levels[..dtype.block_elements()];
    read_levels(dtype, block, levels);
    let mut nibbles = [0; 128];
    let nibbles = &mut nibbles[..levels.len() / 2];
    for (nibbles, pair) in nibbles.iter_mut().zip(levels.as_chunks::<2>().0) {
        *nibbles = pair[0] & 15 | (pair[1] & 15) << 4;
    }
    put(out, first, index, nibbles);
    let blocks = levels.len() / 32;
    let has_fifth_bits = matches!(dtype, DType::Q5_0 | DType::Q5_1 | DType::Q5_K);
    for (i, levels) in levels.as_chunks::<32>().0.iter().enumerate() {
        let upper = |bits: usize| {
            levels.iter().rev().fold(0u64, |word, level| word << bits | u64::from(level >> 4))
        };
        if has_fifth_bits {
            put(out, second, index * blocks + i, &(upper(1) as u32).to_le_bytes());
        } else if dtype == DType::Q6_K {
            put(out, second, index * blocks + i, &upper(2).to_le_bytes());
        }
    }
    match dtype {
        DType::Q4_0 => put(out, second, index, &block[..2]),
        DType::Q4_1 => put(out, second, index, &block[..4]),
        DType::Q5_0 => put(out, third, index, &block[..2]),
        DType::Q5_1 => put(out, third, index, &block[..4]),
        DType::Q4_K => put(out, second, index, &block[..16]),
        DType::Q5_K => put(out, third, index, &block[..16]),
        _ => {
            put(out, third, index, &block[192..208]);
            put(out, fourth, index, &block[208..210]);
        }
    }
}

/// The integers of a block, before offsets and scales; see `dequantise` for the formats.
fn read_levels(dtype: DType, block: &[u8], levels: &mut [u8]) {
    let nibble = |bytes: &[u8], i: usize| bytes[i % 16] >> (i / 16 * 4) & 15;
    let bit = |bytes: &[u8], i: usize| (bytes[i / 8] >> (i % 8) & 1) << 4;
    for (i, level) in levels.iter_mut().enumerate() {
        let (sub, at) = (i / 32, i % 32);
        *level = match dtype {
            DType::Q4_0 => nibble(&block[2..], i),
            DType::Q4_1 => nibble(&block[4..], i),
            DType::Q5_0 => nibble(&block[6..], i) | bit(&block[2..], i),
            DType::Q5_1 => nibble(&block[8..], i) | bit(&block[4..], i),
            DType::Q4_K => block[16 + sub / 2 * 32 + at] >> (sub % 2 * 4) & 15,
            DType::Q5_K => {
                block[48 + sub / 2 * 32 + at] >> (sub % 2 * 4) & 15
                    | (block[16 + at] >> sub & 1) << 4
            }
            _ => {
                let (half, quarter) = (i / 128, i % 128 / 32);
                let low = block[half * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
                low | (block[128 + half * 32 + at] >> (quarter * 2) & 3) << 4
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_floats_are_the_nearest() {
        let value = |bits: u8| {
            let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
            let size = if exponent == 0 {
                fraction * 2f32.powi(-9)
            } else {
                (8.0 + fraction) * 2f32.powi(exponent - 10)
            };
            if bits & 0x80 == 0 { size } else { -size }
        };
        for bits in (0..=0x7e).chain(0x80..=0xfe) {
            assert_eq!(to_f8(value(bits)), bits, "{bits:x} is itself");
        }
        for bits in 0..0x7e {
            let (low, high) = (value(bits), value(bits + 1));
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(to_f8((low + high) / 2.0), even, "a tie above {low} goes to even");
            assert_eq!(to_f8(low + (high - low) * 0.49), bits, "near {low}");
        }
        assert_eq!(to_f8(1e9), 0x7e, "there is no infinity");
    }

    #[test]
    fn rows_are_planes_at_multiples_of_16() {
        for format in WeightFormat::ALL {
            let columns = 3 * 256;
            let bytes = DeviceMatrix::row_bytes(format, columns).unwrap();
            assert!(bytes.is_multiple_of(PLANE_BYTES), "{format:?}");
            assert_eq!(DeviceMatrix::bytes(format, 5, columns), Some(5 * bytes));
            let is_any = format.block_elements() == 1;
            assert_eq!(DeviceMatrix::row_bytes(format, 7).is_some(), is_any, "{format:?}");
            assert_eq!(DeviceMatrix::bytes(format, usize::MAX, columns), None, "{format:?}");
        }
        assert_eq!(DeviceMatrix::row_bytes(WeightFormat::Q4_K, 256), Some(144), "as in the file");
        assert_eq!(DeviceMatrix::row_bytes(WeightFormat::Q6_K, 4096), Some(3360), "likewise");
    }
}
