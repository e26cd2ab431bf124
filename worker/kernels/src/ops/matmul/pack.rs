//! From a file's blocks to a panel: once, at load, about as fast as memory takes it.

use super::layout::{
    EXPONENT_BYTES, Fifths, FifthsOffset, Nibbles, NibblesOffset, PANEL_ROWS, PanelLayout,
    Quantised, Sixths, UNIT_COLUMNS, Whole,
};
use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::matrix::MatrixView;
use crate::ops::dequantise::{k_scales, read_f16};
use crate::simd;

/// Sub-blocks of a K-quant's block.
const K_UNITS: usize = 8;

/// Values of a row's unit: eight words of four.
type Words = [u32; 8];

/// Where a panel's rows come from and go to.
struct Panel<'a> {
    cpu: Cpu,
    view: &'a MatrixView<'a>,
    first_row: usize,
    out: &'a mut [u8],
}

/// Writes rows `first_row..first_row + 16` of `view` as a panel into `out`, which is zero; rows
/// past the end stay so.
pub(super) fn panel(cpu: Cpu, view: &MatrixView<'_>, first_row: usize, out: &mut [u8]) {
    let mut panel = Panel { cpu, view, first_row, out };
    match view.dtype() {
        DType::F32 => panel.floats::<4>(),
        DType::F16 | DType::BF16 => panel.floats::<2>(),
        DType::Q4_0 => panel.rows::<Nibbles, 18, 16, 64>(&q4_0),
        DType::Q4_1 => panel.rows::<NibblesOffset, 20, 32, 64>(&q4_1),
        DType::Q5_0 => panel.rows::<Fifths, 22, 16, 80>(&q5_0),
        DType::Q5_1 => panel.rows::<FifthsOffset, 24, 32, 80>(&q5_1),
        DType::Q8_0 => panel.rows::<Whole, 34, 16, 128>(&q8_0),
        DType::Q4_K => panel.k_rows::<NibblesOffset, 144, 64>(&q4_k, &k_scale_and_offset),
        DType::Q5_K => panel.k_rows::<FifthsOffset, 176, 80>(&q5_k, &k_scale_and_offset),
        DType::Q6_K => panel.k_rows::<Sixths, 210, 96>(&q6_k, &q6_k_scales),
    }
}

/// The scales, exponents and values of a panel.
struct Parts<'a> {
    exponents: &'a mut [[u8; 4]],
    scales: &'a mut [[u8; 2]],
    words: &'a mut [[u8; 4]],
}

impl Panel<'_> {
    fn lanes(&self) -> usize {
        PANEL_ROWS.min(self.view.rows() - self.first_row)
    }

    fn parts(&mut self) -> Parts<'_> {
        let scales_bytes = PanelLayout::of(self.view.dtype()).scales_bytes(self.view.columns());
        let (exponents, rest) = self.out.split_at_mut(EXPONENT_BYTES);
        let (scales, words) = rest.split_at_mut(scales_bytes);
        Parts {
            exponents: exponents.as_chunks_mut().0,
            scales: scales.as_chunks_mut().0,
            words: words.as_chunks_mut().0,
        }
    }

    fn floats<const BYTES: usize>(&mut self) {
        for lane in 0..self.lanes() {
            let values = self.view.row(self.first_row + lane).as_chunks::<BYTES>().0;
            let columns = self.out.as_chunks_mut::<BYTES>().0.as_chunks_mut::<PANEL_ROWS>().0;
            for (value, column) in values.iter().zip(columns) {
                column[lane] = *value;
            }
        }
    }

    /// Blocks of one unit of `BYTES` bytes, the scale and then any offset in front; `HALVES` and
    /// `WORDS` are the unit's in the layout `Q`.
    fn rows<Q: Quantised, const BYTES: usize, const HALVES: usize, const WORDS: usize>(
        &mut self,
        words: &impl Fn(&[u8; BYTES]) -> Words,
    ) {
        for lane in 0..self.lanes() {
            let blocks = self.view.row(self.first_row + lane).as_chunks::<BYTES>().0;
            let parts = self.parts();
            parts.exponents[lane] = 1f32.to_ne_bytes();
            let scales = parts.scales.as_chunks_mut::<HALVES>().0;
            let units = parts.words.as_chunks_mut::<WORDS>().0;
            for ((block, scales), unit) in blocks.iter().zip(scales).zip(units) {
                for vector in 0..HALVES / PANEL_ROWS {
                    let half = u16::from_le_bytes([block[2 * vector], block[2 * vector + 1]]);
                    scales[vector * PANEL_ROWS + lane] = half.to_ne_bytes();
                }
                store_words::<Q, WORDS>(&words(block), lane, unit);
            }
        }
    }

    /// Blocks of eight units; `scales` are the two of a sub-block, times a factor.
    fn k_rows<Q: Quantised, const BYTES: usize, const WORDS: usize>(
        &mut self,
        words: &impl Fn(&[u8; BYTES], usize) -> Words,
        scales: &impl Fn(&[u8; BYTES], f32) -> [[f32; 2]; K_UNITS],
    ) {
        let (dtype, cpu) = (self.view.dtype(), self.cpu);
        for lane in 0..self.lanes() {
            let row = self.view.row(self.first_row + lane);
            let factor = power_of_two_for(dtype, row);
            let parts = self.parts();
            parts.exponents[lane] = (1.0 / factor).to_ne_bytes();
            let blocks = row.as_chunks::<BYTES>().0.iter();
            let units = parts.words.as_chunks_mut::<WORDS>().0.as_chunks_mut::<K_UNITS>().0;
            let places =
                parts.scales.as_chunks_mut::<{ 2 * PANEL_ROWS }>().0.as_chunks_mut::<K_UNITS>().0;
            for ((block, units), places) in blocks.zip(units).zip(places) {
                let floats = scales(block, factor);
                let mut halves = [0; 2 * K_UNITS];
                simd::to_halves(cpu, floats.as_flattened(), &mut halves);
                for (place, pair) in places.iter_mut().zip(halves.as_chunks::<2>().0) {
                    place[lane] = pair[0].to_ne_bytes();
                    place[PANEL_ROWS + lane] = pair[1].to_ne_bytes();
                }
                for (sub, unit) in units.iter_mut().enumerate() {
                    store_words::<Q, WORDS>(&words(block, sub), lane, unit);
                }
            }
        }
    }
}

#[inline(always)]
fn store_words<Q: Quantised, const WORDS: usize>(
    words: &Words,
    lane: usize,
    unit: &mut [[u8; 4]; WORDS],
) {
    if Q::BITS == 8 {
        for (i, word) in words.iter().enumerate() {
            unit[i * PANEL_ROWS + lane] = word.to_le_bytes();
        }
        return;
    }
    for (i, pair) in words.as_chunks::<2>().0.iter().enumerate() {
        let nibbles = pair[0] & 0x0f0f_0f0f | (pair[1] & 0x0f0f_0f0f) << 4;
        unit[i * PANEL_ROWS + lane] = nibbles.to_le_bytes();
    }
    if Q::BITS == 5 {
        let bits = (0..8).fold(0, |bits, j| bits | (words[j] >> 4 & 0x0101_0101) << j);
        unit[4 * PANEL_ROWS + lane] = bits.to_le_bytes();
    }
    if Q::BITS == 6 {
        for (half, words) in words.as_chunks::<4>().0.iter().enumerate() {
            let pair = |j: usize| (words[j] >> 4 & 0x0303_0303) << (2 * j);
            let bits = pair(0) | pair(1) | pair(2) | pair(3);
            unit[(4 + half) * PANEL_ROWS + lane] = bits.to_le_bytes();
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

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// 16 bytes: columns 0..16 in the low nibbles, 16..32 in the high ones.
#[inline(always)]
fn two_halves(nibbles: &[u8]) -> Words {
    std::array::from_fn(|j| word(nibbles, j % 4 * 4) >> (j / 4 * 4) & 0x0f0f_0f0f)
}

/// 32 bytes, one column each, `shift` bits up.
#[inline(always)]
fn one_nibble(nibbles: &[u8], shift: usize) -> Words {
    std::array::from_fn(|j| word(nibbles, j * 4) >> shift & 0x0f0f_0f0f)
}

/// Adds bit `4 j + i` of `bits` as the fifth bit of byte `i` of word `j`.
#[inline(always)]
fn add_fifths(words: Words, bits: u32) -> Words {
    // Times 0x204081 copies bit i of four to bit 8 i (7 i further); the mask drops the rest.
    let spread = |four: u32| four.wrapping_mul(0x0020_4081) & 0x0101_0101;
    std::array::from_fn(|j| words[j] | spread(bits >> (4 * j) & 15) << 4)
}

#[inline(always)]
fn q4_0(block: &[u8; 18]) -> Words {
    two_halves(&block[2..18])
}

#[inline(always)]
fn q4_1(block: &[u8; 20]) -> Words {
    two_halves(&block[4..20])
}

#[inline(always)]
fn q5_0(block: &[u8; 22]) -> Words {
    add_fifths(two_halves(&block[6..22]), word(block, 2))
}

#[inline(always)]
fn q5_1(block: &[u8; 24]) -> Words {
    add_fifths(two_halves(&block[8..24]), word(block, 4))
}

#[inline(always)]
fn q8_0(block: &[u8; 34]) -> Words {
    std::array::from_fn(|j| word(block, 2 + 4 * j) ^ 0x8080_8080)
}

#[inline(always)]
fn q4_k(block: &[u8; 144], sub: usize) -> Words {
    one_nibble(&block[16 + sub / 2 * UNIT_COLUMNS..][..UNIT_COLUMNS], sub % 2 * 4)
}

#[inline(always)]
fn q5_k(block: &[u8; 176], sub: usize) -> Words {
    let low = one_nibble(&block[48 + sub / 2 * UNIT_COLUMNS..][..UNIT_COLUMNS], sub % 2 * 4);
    let bits = |j: usize| (word(block, 16 + 4 * j) >> sub & 0x0101_0101) << 4;
    std::array::from_fn(|j| low[j] | bits(j))
}

#[inline(always)]
fn q6_k(block: &[u8; 210], sub: usize) -> Words {
    let (half, quarter) = (sub / 4, sub % 4);
    let low = one_nibble(&block[half * 64 + quarter % 2 * 32..][..32], quarter / 2 * 4);
    let top = &block[128 + half * 32..][..32];
    let bits = |j: usize| (word(top, 4 * j) >> (2 * quarter) & 0x0303_0303) << 4;
    std::array::from_fn(|j| low[j] | bits(j))
}

/// Scale and offset of each sub-block of Q4_K and Q5_K.
fn k_scale_and_offset<const BYTES: usize>(block: &[u8; BYTES], factor: f32) -> [[f32; 2]; K_UNITS] {
    let (d, dmin) = (read_f16(block, 0) * factor, read_f16(block, 2) * factor);
    std::array::from_fn(|sub| {
        let (scale, min) = k_scales(&block[4..16], sub);
        [d * f32::from(scale), -dmin * f32::from(min)]
    })
}

/// The scales of the halves of each sub-block of Q6_K.
fn q6_k_scales(block: &[u8; 210], factor: f32) -> [[f32; 2]; K_UNITS] {
    let d = read_f16(block, 208) * factor;
    let scale = |i: usize| d * f32::from(block[192 + i] as i8);
    std::array::from_fn(|sub| [scale(2 * sub), scale(2 * sub + 1)])
}

#[cfg(test)]
mod tests {
    use half::f16;

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
