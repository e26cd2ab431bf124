//! Plain dequantisers, one per format. Source: the block structures of `ggml-common.h`.

use half::{bf16, f16};

use crate::dtype::DType;

/// Writes the floats of `blocks`; the caller has checked the lengths.
pub(super) fn dequantise(dtype: DType, blocks: &[u8], out: &mut [f32]) {
    let block: fn(&[u8], &mut [f32]) = match dtype {
        DType::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        DType::F16 => |b, out| out[0] = read_f16(b, 0),
        DType::BF16 => |b, out| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::Q4_0 => q4_0,
        DType::Q4_1 => q4_1,
        DType::Q5_0 => q5_0,
        DType::Q5_1 => q5_1,
        DType::Q8_0 => q8_0,
        DType::Q4_K => q4_k,
        DType::Q5_K => q5_k,
        DType::Q6_K => q6_k,
    };
    let values = out.chunks_exact_mut(dtype.block_elements());
    for (bytes, values) in blocks.chunks_exact(dtype.block_bytes()).zip(values) {
        block(bytes, values);
    }
}

/// The half float at byte `at`.
pub(crate) fn read_f16(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// A byte's low nibble is value `i`, its high nibble value `i + 16`.
fn nibbles(bytes: &[u8], write: &mut dyn FnMut(usize, u8)) {
    for (i, &byte) in bytes.iter().enumerate() {
        write(i, byte & 15);
        write(i + 16, byte >> 4);
    }
}

fn fifth_bit(bits: &[u8], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = read_f16(block, 0);
    nibbles(&block[2..18], &mut |i, q| out[i] = d * (f32::from(q) - 8.0));
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (read_f16(block, 0), read_f16(block, 2));
    nibbles(&block[4..20], &mut |i, q| out[i] = d * f32::from(q) + m);
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, bits) = (read_f16(block, 0), &block[2..6]);
    let write = &mut |i, q| out[i] = d * (f32::from(q | fifth_bit(bits, i)) - 16.0);
    nibbles(&block[6..22], write);
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, bits) = (read_f16(block, 0), read_f16(block, 2), &block[4..8]);
    let write = &mut |i, q| out[i] = d * f32::from(q | fifth_bit(bits, i)) + m;
    nibbles(&block[8..24], write);
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = read_f16(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..34]) {
        *out = d * f32::from(q as i8);
    }
}

/// The 6-bit scale and minimum of sub-block `j` (below 8) in the 12 packed bytes of Q4_K and Q5_K:
/// sub-blocks 0..4 are the low six bits of bytes j and j + 4; 4..8 have their low nibbles in byte j
/// + 4 and their top two bits in those of 0..4.
pub(crate) fn k_scales(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        ((low & 15) | packed[j - 4] >> 6 << 4, (low >> 4) | packed[j] >> 6 << 4)
    }
}

/// Sub-blocks `2 p` and `2 p + 1` are the low and high nibbles of the same 32 bytes.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (read_f16(block, 0), read_f16(block, 2));
    let (scales, nibbles) = (&block[4..16], &block[16..144]);
    for (i, out) in out.iter_mut().enumerate() {
        let (sub, at) = (i / 32, i % 32);
        let q = nibbles[sub / 2 * 32 + at] >> (sub % 2 * 4) & 15;
        let (scale, min) = k_scales(scales, sub);
        *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
    }
}

/// As Q4_K, with the fifth bit of sub-block `j` in bit `j` of 32 further bytes.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (read_f16(block, 0), read_f16(block, 2));
    let (scales, high, nibbles) = (&block[4..16], &block[16..48], &block[48..176]);
    for (i, out) in out.iter_mut().enumerate() {
        let (sub, at) = (i / 32, i % 32);
        let q = nibbles[sub / 2 * 32 + at] >> (sub % 2 * 4) & 15 | (high[at] >> sub & 1) << 4;
        let (scale, min) = k_scales(scales, sub);
        *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
    }
}

/// Two halves of 128 values; each half: 64 bytes of low nibbles, 32 bytes of top bit pairs, 8
/// scales of 16 values.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[0..128], &block[128..192], &block[192..208]);
    let d = read_f16(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let (half, quarter, at) = (i / 128, i % 128 / 32, i % 32);
        let nibble = low[half * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
        let top = high[half * 32 + at] >> (quarter * 2) & 3;
        let q = i32::from(nibble | top << 4) - 32;
        *out = d * f32::from(scales[i / 16] as i8) * q as f32;
    }
}
