//! Plain matmul over dequantised rows, in f64.

use crate::matrix::MatrixView;
use crate::ops::dequantise::embed_row;

/// `x [tokens, columns] · weight [rows, columns]ᵀ`, and beside each value the sum of the
/// magnitudes of its products, which rounding errors are in proportion to.
pub(super) fn matmul(weight: &MatrixView<'_>, x: &[f32]) -> Vec<(f64, f64)> {
    let columns = weight.columns();
    let mut row = vec![0.0; columns];
    let mut out = vec![(0.0, 0.0); x.len() / columns * weight.rows()];
    for r in 0..weight.rows() {
        embed_row(weight, r, &mut row).expect("the row is as long as the matrix is wide");
        for (token, left) in x.chunks_exact(columns).enumerate() {
            let products = row.iter().zip(left).map(|(&w, &x)| f64::from(w) * f64::from(x));
            out[token * weight.rows() + r] =
                products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
        }
    }
    out
}
