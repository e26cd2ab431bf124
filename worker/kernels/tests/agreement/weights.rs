//! Weights for the tests: of every format, as a file has them, as a device holds them, and what
//! they stand for.

use half::{bf16, f16};
use naru_kernels::cuda::{DeviceMatrix, WeightFormat, lay_out, lay_out_f8};
use naru_kernels::{DType, MatrixView, dequantise};

use crate::machine::Machine;
use crate::numbers::Random;

/// A matrix of seeded weights.
pub struct Weights {
    pub format: WeightFormat,
    pub rows: usize,
    pub columns: usize,
    /// As a device holds them.
    pub bytes: Vec<u8>,
    /// What they stand for, `[rows, columns]`.
    pub values: Vec<f64>,
}

impl Weights {
    /// Weights of about `size`.
    pub fn new(format: WeightFormat, rows: usize, columns: usize, size: f64) -> Self {
        let mut random = Random((rows * columns) as u64 + format as u64);
        let length = DeviceMatrix::bytes(format, rows, columns).expect("whole blocks");
        let mut bytes = vec![0; length];
        let Some(dtype) = DType::ALL.into_iter().find(|&dtype| format == dtype.into()) else {
            let floats = random.normal(rows * columns, size);
            lay_out_f8(&floats, columns, &mut bytes).expect("sizes that fit");
            let values = eight_bit_values(&bytes, columns);
            return Self { format, rows, columns, bytes, values };
        };
        let file = file_bytes(dtype, rows * columns, size, &mut random);
        let view = MatrixView::new(dtype, rows, columns, &file).expect("a whole matrix");
        // In two parts, as two threads would.
        let half = rows / 2;
        let (first, second) = bytes.split_at_mut(half * length / rows);
        lay_out(&view.slice_rows(0..half).expect("rows"), first).expect("sizes that fit");
        lay_out(&view.slice_rows(half..rows).expect("rows"), second).expect("sizes that fit");
        let mut floats = vec![0.0; rows * columns];
        dequantise(dtype, &file, &mut floats).expect("whole blocks");
        let values = floats.into_iter().map(f64::from).collect();
        Self { format, rows, columns, bytes, values }
    }

    /// Its copy in the device's memory.
    pub fn upload(&self, machine: &mut dyn Machine) -> DeviceMatrix {
        let Self { format, rows, columns, .. } = *self;
        DeviceMatrix { format, rows, columns, pointer: machine.upload(&self.bytes) }
    }
}

/// What rows of 8-bit floats stand for.
fn eight_bit_values(bytes: &[u8], columns: usize) -> Vec<f64> {
    let row_bytes = DeviceMatrix::row_bytes(WeightFormat::F8E4M3, columns).expect("any columns");
    let scale_at = columns.next_multiple_of(32);
    let of_row = |row: &[u8]| -> Vec<f64> {
        let scale = f32::from_le_bytes(row[scale_at..][..4].try_into().expect("four bytes"));
        row[..columns].iter().map(|&bits| eight_bit_value(bits) * f64::from(scale)).collect()
    };
    bytes.chunks_exact(row_bytes).flat_map(of_row).collect()
}

fn eight_bit_value(bits: u8) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    let size = match exponent {
        0 => fraction * 2f64.powi(-9),
        _ => (8.0 + fraction) * 2f64.powi(exponent - 10),
    };
    if bits & 0x80 == 0 { size } else { -size }
}

/// Blocks of random bits whose scales make weights of about `size`.
fn file_bytes(dtype: DType, count: usize, size: f64, random: &mut Random) -> Vec<u8> {
    let floats = |random: &mut Random| random.normal(count, size).into_iter();
    // Where half floats stand in a block, and what makes its largest level about 2.
    let (scales, unit): (&[usize], f64) = match dtype {
        DType::F32 => return floats(random).flat_map(f32::to_le_bytes).collect(),
        DType::F16 => return floats(random).flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => {
            return floats(random).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
        }
        DType::Q4_0 => (&[0], 0.25),
        DType::Q4_1 => (&[0, 2], 0.125),
        DType::Q5_0 => (&[0], 0.125),
        DType::Q5_1 => (&[0, 2], 0.0625),
        DType::Q8_0 => (&[0], 1.0 / 64.0),
        DType::Q4_K => (&[0, 2], 2f64.powi(-9)),
        DType::Q5_K => (&[0, 2], 2f64.powi(-10)),
        DType::Q6_K => (&[208], 2f64.powi(-11)),
    };
    let blocks = count / dtype.block_elements();
    let mut bytes: Vec<u8> =
        (0..blocks * dtype.block_bytes()).map(|_| random.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in scales {
            let scale = random.normal(1, unit * size)[0];
            block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        }
    }
    bytes
}
