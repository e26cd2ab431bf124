use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::cpu::{Cpu, CpuLevel};
use crate::dtype::DType;
use crate::matrix::MatrixView;

fn pool(threads: usize, level: CpuLevel) -> ComputePool {
    ComputePool::start_on(NonZeroUsize::new(threads).unwrap(), Cpu::at_most(level)).unwrap()
}

/// A stream of bytes that looks random (xorshift).
fn noise(seed: u64) -> impl FnMut() -> u8 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    }
}

fn floats(seed: u64, count: usize) -> Vec<f32> {
    let mut byte = noise(seed);
    (0..count).map(|_| (f32::from(byte()) + f32::from(byte()) / 256.0 - 128.0) / 100.0).collect()
}

/// Blocks whose values are random and whose scales are near 0.01.
fn blocks(dtype: DType, rows: usize, columns: usize, seed: u64) -> Vec<u8> {
    let mut byte = noise(seed);
    let mut scale = |bytes: &mut [u8]| {
        let value = (f32::from(byte()) - 100.0) / 10_000.0;
        bytes.copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
    };
    let mut bytes: Vec<u8> = Vec::new();
    let mut random = noise(seed + 1);
    for block in 0..rows * columns / dtype.block_elements() {
        let at = bytes.len();
        bytes.extend((0..dtype.block_bytes()).map(|_| random()));
        let new = &mut bytes[at..];
        match dtype {
            DType::F32 => {
                new.copy_from_slice(&floats(seed + block as u64, 1)[0].to_le_bytes());
            }
            DType::F16 => scale(new),
            DType::BF16 => {
                new.copy_from_slice(&floats(seed + block as u64, 1)[0].to_le_bytes()[2..]);
            }
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => scale(&mut new[..2]),
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => {
                scale(&mut new[..2]);
                scale(&mut new[2..4]);
            }
            DType::Q6_K => scale(&mut new[208..210]),
        }
    }
    bytes
}

fn product(pool: &ComputePool, weight: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let mut left = Activations::new();
    left.copy_from(pool, weight.columns(), x).unwrap();
    let mut out = vec![f32::NAN; left.tokens() * weight.rows()];
    matmul(pool, weight, &left, MatmulOutput::Set(&mut out)).unwrap();
    out
}

/// The floats that the int8 form of `x` stands for.
fn rounded_to_bytes(pool: &ComputePool, columns: usize, x: &[f32]) -> Vec<f32> {
    let mut left = Activations::new();
    left.copy_from(pool, columns, x).unwrap();
    let rows = left.quantised_from(0);
    rows.bytes.iter().enumerate().map(|(i, &q)| f32::from(q) * rows.scales[i / 32]).collect()
}

const LEVELS: [CpuLevel; 3] = [CpuLevel::Portable, CpuLevel::Avx2, CpuLevel::Avx512Vnni];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_format_and_level_agrees_with_the_reference(
        kind in 0..DType::ALL.len(), rows in 1usize..40, units in 1usize..5, tokens in 1usize..20,
        seed in 0u64..1 << 32,
    ) {
        let dtype = DType::ALL[kind];
        let columns = units * dtype.block_elements().max(32) - if kind < 3 { 5 } else { 0 };
        let bytes = blocks(dtype, rows, columns, seed);
        let view = MatrixView::new(dtype, rows, columns, &bytes).unwrap();
        let x = floats(seed + 7, tokens * columns);
        for level in LEVELS {
            let pool = pool(1, level);
            let weight = PackedMatrix::pack(&view, &pool).unwrap();
            let x_seen = if kind < 3 { x.clone() } else { rounded_to_bytes(&pool, columns, &x) };
            let expected = reference::matmul(&view, &x_seen);
            // Sums of n roundings of 2^-24 each, n below 2,000 here, on the magnitudes of the
            // products; K-quants' scales are rounded to f16 once more (2^-11), and the offset and
            // the scaled values of a format with offsets may cancel, each as great as 16 times
            // what is left of them.
            let relative = match dtype {
                DType::Q4_K | DType::Q5_K => 16.0 / 2048.0,
                DType::Q6_K => 1.0 / 2048.0,
                _ => 2000.0 / 16_777_216.0,
            };
            let found = product(&pool, &weight, &x);
            for (i, (&found, &(value, size))) in found.iter().zip(&expected).enumerate() {
                let error = (f64::from(found) - value).abs();
                prop_assert!(
                    error <= relative * size + 1e-6,
                    "{dtype:?} {level:?} {i}: {found} {value} of {size}"
                );
            }
        }
    }
}

#[test]
fn avx2_and_avx512_give_the_same_bits() {
    for dtype in DType::ALL {
        let bytes = blocks(dtype, 37, 512, 3);
        let view = MatrixView::new(dtype, 37, 512, &bytes).unwrap();
        let x = floats(9, 5 * 512);
        let of = |level| {
            let pool = pool(1, level);
            product(&pool, &PackedMatrix::pack(&view, &pool).unwrap(), &x)
        };
        assert_eq!(of(CpuLevel::Avx2), of(CpuLevel::Avx512Vnni), "{dtype:?}");
    }
}

#[test]
fn a_token_alone_has_the_bits_it_has_in_a_batch() {
    for dtype in DType::ALL {
        for level in LEVELS {
            let bytes = blocks(dtype, 83, 512, 5);
            let view = MatrixView::new(dtype, 83, 512, &bytes).unwrap();
            let (one, two) = (pool(1, level), pool(2, level));
            let weight = PackedMatrix::pack(&view, &two).unwrap();
            let x = floats(11, 133 * 512);
            let batch = product(&two, &weight, &x);
            assert_eq!(batch, product(&one, &weight, &x), "{dtype:?} {level:?}: threads");
            for token in [0, 3, 62, 64, 132] {
                let alone = product(&two, &weight, &x[token * 512..][..512]);
                assert_eq!(alone, batch[token * 83..][..83], "{dtype:?} {level:?} {token}");
            }
        }
    }
}

/// What columns `range` of the weight add to a product; their stretches are those of the whole.
fn part(
    pool: &ComputePool,
    view: &MatrixView<'_>,
    range: std::ops::Range<usize>,
    columns: usize,
    x: &[f32],
) -> Vec<f64> {
    let (whole, held) = (view.columns(), range.len());
    let weight = PackedMatrix::pack(&view.slice_columns(range.clone()).unwrap(), pool).unwrap();
    let stretches = Stretches { columns, skipped: range.start % columns };
    let weight = weight.in_stretches(stretches).unwrap();
    let rows: Vec<f32> =
        x.chunks_exact(whole).flat_map(|row| row[range.clone()].to_vec()).collect();
    let mut left = Activations::new();
    left.copy_from(pool, held, &rows).unwrap();
    let mut out = vec![f64::NAN; left.tokens() * weight.rows()];
    matmul(pool, &weight, &left, MatmulOutput::Wide(&mut out)).unwrap();
    out
}

#[test]
fn parts_cut_between_stretches_add_to_the_bits_of_the_whole() {
    for (dtype, level) in DType::ALL.iter().flat_map(|dtype| LEVELS.map(|level| (*dtype, level))) {
        let (rows, columns, stretch) = (37, 1536, 192);
        let bytes = blocks(dtype, rows, columns, 21);
        let view = MatrixView::new(dtype, rows, columns, &bytes).unwrap();
        let pool = pool(2, level);
        let weight = PackedMatrix::pack(&view, &pool).unwrap();
        let stretches = Stretches { columns: stretch, skipped: 0 };
        let weight = weight.in_stretches(stretches).unwrap();
        let x = floats(23, 13 * columns);
        let whole = product(&pool, &weight, &x);
        // 768 is between two blocks of every format; a block of 256 ends inside a stretch at 512,
        // and then what one part has of the stretch is zeros.
        let mut beside = x.clone();
        beside.chunks_exact_mut(columns).for_each(|row| row[512..576].fill(0.0));
        let check = |cuts: &[usize], x: &[f32], whole: &[f32]| {
            let mut sum = vec![0.0f64; whole.len()];
            for cut in cuts.windows(2) {
                let part = part(&pool, &view, cut[0]..cut[1], stretch, x);
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            let sum: Vec<f32> = sum.iter().map(|sum| *sum as f32).collect();
            assert_eq!(sum, whole, "{dtype:?} {level:?} {cuts:?}");
        };
        check(&[0, 768, 1536], &x, &whole);
        check(&[0, 512, 1536], &beside, &product(&pool, &weight, &beside));
        let one = PackedMatrix::pack(&view, &pool).unwrap();
        let apart = product(&pool, &one, &x);
        assert_ne!(apart, whole, "{dtype:?}: one sum of all columns would hide an error");
    }
}

#[test]
fn greatest_activations_and_weights_do_not_saturate() {
    for dtype in [DType::Q4_0, DType::Q5_0, DType::Q6_K, DType::Q8_0] {
        for fill in [0x00, 0xff, 0x80, 0x7f] {
            let columns = dtype.block_elements();
            let mut bytes = vec![fill; 16 * dtype.block_bytes()];
            let at = if dtype == DType::Q6_K { 208 } else { 0 };
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
            }
            let view = MatrixView::new(dtype, 16, columns, &bytes).unwrap();
            for sign in [1.0f32, -1.0] {
                let x = vec![127.0 * sign; columns];
                let expected = reference::matmul(&view, &x)[0].0 as f32;
                for level in LEVELS {
                    let pool = pool(1, level);
                    let weight = PackedMatrix::pack(&view, &pool).unwrap();
                    let found = product(&pool, &weight, &x)[0];
                    let near = (found - expected).abs() <= expected.abs() * 1e-3;
                    assert!(near, "{dtype:?} {fill:x} {level:?}: {found} {expected}");
                }
            }
        }
    }
}

#[test]
fn stacked_matrices_of_unlike_formats_write_one_row_per_token() {
    let pool = pool(2, CpuLevel::Avx512Vnni);
    let (a, b) = (blocks(DType::Q4_1, 21, 64, 1), blocks(DType::Q8_0, 5, 64, 2));
    let a = MatrixView::new(DType::Q4_1, 21, 64, &a).unwrap();
    let b = MatrixView::new(DType::Q8_0, 5, 64, &b).unwrap();
    let both = PackedMatrix::pack_stacked(&[a, b], &pool).unwrap();
    let x = floats(3, 2 * 64);
    let out = product(&pool, &both, &x);
    let first = product(&pool, &PackedMatrix::pack(&a, &pool).unwrap(), &x);
    let second = product(&pool, &PackedMatrix::pack(&b, &pool).unwrap(), &x);
    assert_eq!((&out[..21], &out[21..26]), (&first[..21], &second[..5]));
    assert_eq!((&out[26..47], &out[47..]), (&first[21..], &second[5..]));
    let mut left = Activations::new();
    left.copy_from(&pool, 64, &x).unwrap();
    let mut sum = out.clone();
    matmul(&pool, &both, &left, MatmulOutput::Add(&mut sum)).unwrap();
    assert!(sum.iter().zip(&out).all(|(sum, once)| *sum == 2.0 * once));
}

#[test]
fn what_does_not_fit_is_refused() {
    let pool = pool(1, CpuLevel::Portable);
    let bytes = blocks(DType::Q8_0, 2, 64, 1);
    let view = MatrixView::new(DType::Q8_0, 2, 64, &bytes).unwrap();
    let weight = PackedMatrix::pack(&view, &pool).unwrap();
    let mut x = Activations::new();
    x.copy_from(&pool, 64, &[0.0; 64]).unwrap();
    let refused = matmul(&pool, &weight, &x, MatmulOutput::Set(&mut [0.0; 3])).unwrap_err();
    assert_eq!(refused.to_string(), "matmul: output must be 2, not 3");
    x.copy_from(&pool, 32, &[0.0; 64]).unwrap();
    assert!(matmul(&pool, &weight, &x, MatmulOutput::Wide(&mut [0.0; 4])).is_err());
    let narrow = view.slice_columns(0..32).unwrap();
    assert!(PackedMatrix::pack_stacked(&[view, narrow], &pool).is_err());
    assert!(PackedMatrix::pack_stacked(&[], &pool).is_err());
    let none = PackedMatrix::pack(&view.slice_rows(0..0).unwrap(), &pool).unwrap();
    x.copy_from(&pool, 64, &[0.0; 64]).unwrap();
    matmul(&pool, &none, &x, MatmulOutput::Set(&mut [])).unwrap();
    let stretches = |columns, skipped| {
        let weight = PackedMatrix::pack(&view, &pool).unwrap();
        weight.in_stretches(Stretches { columns, skipped }).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(stretches(64, 32), Ok(()));
    let refused = "stretches: columns must be a multiple of 32, not 48".to_owned();
    assert_eq!(stretches(48, 0), Err(refused));
    assert!(stretches(64, 16).is_err() && stretches(64, 64).is_err() && stretches(0, 0).is_err());
}
