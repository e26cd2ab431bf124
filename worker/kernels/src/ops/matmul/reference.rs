//! Plain matmul over dequantised rows.

use super::{Activations, MatmulOutput, PackedMatrix};
use crate::ops::dequantise::dequantise;
use crate::pool::{ComputePool, SharedSlice};

pub(super) fn matmul(
    pool: &ComputePool,
    weight: &PackedMatrix,
    x: &Activations,
    mode: MatmulOutput,
    out: &mut [f32],
) {
    let (rows, columns) = (weight.rows(), weight.columns());
    let out = SharedSlice::new(out);
    for segment in &weight.segments {
        let row_bytes = segment.bytes.len() / segment.rows.max(1);
        pool.run(segment.rows, &|row| {
            let mut floats = vec![0.0; columns];
            let blocks = &segment.bytes[row * row_bytes..][..row_bytes];
            if dequantise(segment.dtype, blocks, &mut floats).is_err() {
                return;
            }
            for token in 0..x.tokens() {
                let left = &x.values()[token * columns..][..columns];
                let sum = floats.iter().zip(left).map(|(w, x)| w * x).sum::<f32>();
                // SAFETY: this task alone writes this row's column of the output.
                let out = unsafe { out.range(token * rows + segment.first_row + row, 1) };
                out[0] = if mode == MatmulOutput::Add { out[0] + sum } else { sum };
            }
        });
    }
}
