//! From a file's blocks to a panel: once, at load.

use half::f16;

use super::layout::{EXPONENT_BYTES, FloatKind, PANEL_ROWS, PanelLayout, UNIT_COLUMNS};
use crate::dtype::DType;
use crate::matrix::MatrixView;
use crate::ops::dequantise::{k_scales, read_f16};

/// One row's 32 columns: eight words of four values each, and what they are multiplied with.
struct RowUnit {
    words: [u32; 8],
    scales: [f16; 2],
    offset: f16,
}

/// Writes rows `first_row..first_row + 16` of `view` as a panel; rows past the end are zero.
pub(super) fn panel(view: &MatrixView<'_>, first_row: usize, out: &mut [u8]) {
    let layout = PanelLayout::of(view.dtype());
    for lane in 0..PANEL_ROWS.min(view.rows() - first_row) {
        let row = view.row(first_row + lane);
        match (view.dtype(), layout) {
            (_, PanelLayout::Float(FloatKind::F32)) => float_row::<4>(row, lane, out),
            (_, PanelLayout::Float(_)) => float_row::<2>(row, lane, out),
            (DType::Q4_0, _) => quantised_row::<1>(view, row, lane, out, &|b, _, _| q4_0(b)),
            (DType::Q4_1, _) => quantised_row::<1>(view, row, lane, out, &|b, _, _| q4_1(b)),
            (DType::Q5_0, _) => quantised_row::<1>(view, row, lane, out, &|b, _, _| q5_0(b)),
            (DType::Q5_1, _) => quantised_row::<1>(view, row, lane, out, &|b, _, _| q5_1(b)),
            (DType::Q4_K, _) => quantised_row::<8>(view, row, lane, out, &q4_k),
            (DType::Q5_K, _) => quantised_row::<8>(view, row, lane, out, &q5_k),
            (DType::Q6_K, _) => quantised_row::<8>(view, row, lane, out, &q6_k),
            _ => quantised_row::<1>(view, row, lane, out, &|b, _, _| q8_0(b)),
        }
    }
}

fn float_row<const BYTES: usize>(row: &[u8], lane: usize, out: &mut [u8]) {
    let values = row.as_chunks::<BYTES>().0;
    let columns = out.chunks_exact_mut(PANEL_ROWS * BYTES);
    for (value, column) in values.iter().zip(columns) {
        column[lane * BYTES..][..BYTES].copy_from_slice(value);
    }
}

/// `unit(block, sub, factor)` reads sub-block `sub` of a block of `UNITS` sub-blocks, its scales
/// times `factor`.
#[inline(always)]
fn quantised_row<const UNITS: usize>(
    view: &MatrixView<'_>,
    row: &[u8],
    lane: usize,
    out: &mut [u8],
    unit: &impl Fn(&[u8], usize, f32) -> RowUnit,
) {
    let layout = PanelLayout::of(view.dtype());
    let factor = if UNITS == 1 { 1.0 } else { power_of_two_for(view.dtype(), row) };
    let (exponents, rest) = out.split_at_mut(EXPONENT_BYTES);
    exponents[lane * 4..][..4].copy_from_slice(&(1.0 / factor).to_le_bytes());
    let (scales, quants) = rest.split_at_mut(layout.scales_bytes(view.columns()));
    let mut scales = scales.chunks_exact_mut(layout.scale_bytes());
    let mut quants = quants.chunks_exact_mut(layout.quant_bytes());
    for block in row.chunks_exact(view.dtype().block_bytes()) {
        for sub in 0..UNITS {
            let (Some(scales), Some(quants)) = (scales.next(), quants.next()) else { return };
            let unit = unit(block, sub, factor);
            store_scales(layout, &unit, lane, scales);
            store_words(layout, &unit.words, lane, quants);
        }
    }
}

/// The power of two that brings the row's greatest sub-block scale near the top of f16, so that
/// products of a block's scale and a sub-block's neither overflow nor lose bits.
fn power_of_two_for(dtype: DType, row: &[u8]) -> f32 {
    let bound = |block: &[u8]| match dtype {
        DType::Q6_K => read_f16(block, 208).abs() * 128.0,
        _ => read_f16(block, 0).abs().max(read_f16(block, 2).abs()) * 63.0,
    };
    let most = row.chunks_exact(dtype.block_bytes()).map(bound).fold(0.0, f32::max);
    if !(most > 0.0 && most.is_finite()) {
        return 1.0;
    }
    // most = 1.x * 2^exponent, so most * 2^(14 - exponent) is below 2^15.
    let exponent = (most.to_bits() >> 23) as i32 - 127;
    f32::from_bits(((14 - exponent + 127) as u32) << 23)
}

fn store_scales(layout: PanelLayout, unit: &RowUnit, lane: usize, out: &mut [u8]) {
    let mut put = |vector: usize, value: f16| {
        out[(vector * PANEL_ROWS + lane) * 2..][..2].copy_from_slice(&value.to_le_bytes());
    };
    put(0, unit.scales[0]);
    match layout {
        PanelLayout::Sixths => put(1, unit.scales[1]),
        PanelLayout::NibblesOffset | PanelLayout::FifthsOffset => put(1, unit.offset),
        _ => {}
    }
}

#[inline(always)]
fn store_words(layout: PanelLayout, words: &[u32; 8], lane: usize, out: &mut [u8]) {
    let mut put = |vector: usize, word: u32| {
        out[(vector * PANEL_ROWS + lane) * 4..][..4].copy_from_slice(&word.to_le_bytes());
    };
    if layout == PanelLayout::Whole {
        (0..8).for_each(|i| put(i, words[i]));
        return;
    }
    for i in 0..4 {
        put(i, words[2 * i] & 0x0f0f_0f0f | (words[2 * i + 1] & 0x0f0f_0f0f) << 4);
    }
    match layout {
        PanelLayout::Fifths | PanelLayout::FifthsOffset => {
            put(4, (0..8).fold(0, |bits, j| bits | (words[j] >> 4 & 0x0101_0101) << j));
        }
        PanelLayout::Sixths => {
            for half in 0..2 {
                let pair = |j: usize| (words[4 * half + j] >> 4 & 0x0303_0303) << (2 * j);
                put(4 + half, pair(0) | pair(1) | pair(2) | pair(3));
            }
        }
        _ => {}
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// 16 bytes: columns 0..16 in the low nibbles, 16..32 in the high ones.
#[inline(always)]
fn two_halves(nibbles: &[u8]) -> [u32; 8] {
    std::array::from_fn(|j| word(nibbles, j % 4 * 4) >> (j / 4 * 4) & 0x0f0f_0f0f)
}

/// 32 bytes, one column each, `shift` bits up.
#[inline(always)]
fn one_nibble(nibbles: &[u8], shift: usize) -> [u32; 8] {
    std::array::from_fn(|j| word(nibbles, j * 4) >> shift & 0x0f0f_0f0f)
}

/// Adds bit `4 j + i` of `bits` as the fifth bit of byte `i` of word `j`.
#[inline(always)]
fn add_fifths(words: [u32; 8], bits: u32) -> [u32; 8] {
    // Times 0x204081 copies bit i of four to bit 8 i (7 i further); the mask drops the rest.
    let spread = |four: u32| four.wrapping_mul(0x0020_4081) & 0x0101_0101;
    std::array::from_fn(|j| words[j] | spread(bits >> (4 * j) & 15) << 4)
}

fn plain(words: [u32; 8], scale: f16, offset: f16) -> RowUnit {
    RowUnit { words, scales: [scale; 2], offset }
}

fn q4_0(block: &[u8]) -> RowUnit {
    plain(two_halves(&block[2..18]), half_at(block, 0), f16::ZERO)
}

fn q4_1(block: &[u8]) -> RowUnit {
    plain(two_halves(&block[4..20]), half_at(block, 0), half_at(block, 2))
}

fn q5_0(block: &[u8]) -> RowUnit {
    let words = add_fifths(two_halves(&block[6..22]), word(block, 2));
    plain(words, half_at(block, 0), f16::ZERO)
}

fn q5_1(block: &[u8]) -> RowUnit {
    let words = add_fifths(two_halves(&block[8..24]), word(block, 4));
    plain(words, half_at(block, 0), half_at(block, 2))
}

fn q8_0(block: &[u8]) -> RowUnit {
    let words = std::array::from_fn(|j| word(block, 2 + 4 * j) ^ 0x8080_8080);
    plain(words, half_at(block, 0), f16::ZERO)
}

fn k_unit(words: [u32; 8], block: &[u8], sub: usize, factor: f32) -> RowUnit {
    let (scale, min) = k_scales(&block[4..16], sub);
    let scale = read_f16(block, 0) * f32::from(scale) * factor;
    let offset = -read_f16(block, 2) * f32::from(min) * factor;
    plain(words, f16::from_f32(scale), f16::from_f32(offset))
}

fn q4_k(block: &[u8], sub: usize, factor: f32) -> RowUnit {
    let words = one_nibble(&block[16 + sub / 2 * UNIT_COLUMNS..], sub % 2 * 4);
    k_unit(words, block, sub, factor)
}

fn q5_k(block: &[u8], sub: usize, factor: f32) -> RowUnit {
    let low = one_nibble(&block[48 + sub / 2 * UNIT_COLUMNS..], sub % 2 * 4);
    let bits = |j: usize| (word(block, 16 + 4 * j) >> sub & 0x0101_0101) << 4;
    k_unit(std::array::from_fn(|j| low[j] | bits(j)), block, sub, factor)
}

fn q6_k(block: &[u8], sub: usize, factor: f32) -> RowUnit {
    let (half, quarter) = (sub / 4, sub % 4);
    let low = one_nibble(&block[half * 64 + quarter % 2 * 32..], quarter / 2 * 4);
    let top = &block[128 + half * 32..];
    let bits = |j: usize| (word(top, 4 * j) >> (2 * quarter) & 0x0303_0303) << 4;
    let d = read_f16(block, 208) * factor;
    let scale = |i: usize| f16::from_f32(d * f32::from(block[192 + 2 * sub + i] as i8));
    RowUnit {
        words: std::array::from_fn(|j| low[j] | bits(j)),
        scales: [scale(0), scale(1)],
        offset: f16::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifth_bits_land_in_their_bytes() {
        for column in 0..32 {
            let words = add_fifths([0; 8], 1 << column);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert!((0..32).all(|i| bytes[i] == if i == column { 16 } else { 0 }), "{column}");
        }
    }

    #[test]
    fn rows_of_great_and_tiny_scales_fit_half_floats() {
        for (d, most) in [(1e-6f32, 63e-6), (60_000.0, 63.0 * 60_000.0)] {
            let mut block = [0u8; 144];
            block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            let factor = power_of_two_for(DType::Q4_K, &block);
            let scaled = most * factor;
            assert!((8_000.0..65_000.0).contains(&scaled), "{d}: {scaled}");
        }
    }
}
