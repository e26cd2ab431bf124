//! Matmul: `out = x · Wᵀ` of packed weights, one token or many.

mod activations;
mod cpu;
pub(crate) mod cuda;
mod layout;
mod pack;
mod packed;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod tile;

pub use activations::Activations;
pub use packed::PackedMatrix;

use crate::pool::ComputePool;
use crate::shape::{self, ShapeError};

/// What happens to the values that are already in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulOutput {
    /// They are replaced.
    Set,
    /// The product is added to them: a residual connection.
    Add,
}

/// `out [tokens, rows] = x [tokens, columns] · weight [rows, columns]ᵀ`, or `+=` with
/// [`MatmulOutput::Add`]. A token's result has the same bits whatever other tokens are in `x` and
/// however many threads the pool has. Quantised weights are multiplied with the int8 form of `x` (a
/// scale per 32 values); F32, F16 and BF16 weights with its floats. Errors: a size does not fit.
pub fn matmul(
    pool: &ComputePool,
    weight: &PackedMatrix,
    x: &Activations,
    mode: MatmulOutput,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    const OP: &str = "matmul";
    shape::exactly(OP, "columns of x", weight.columns(), x.columns())?;
    shape::exactly(OP, "output", weight.rows() * x.tokens(), out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    cpu::matmul(pool, weight, x, mode, out);
    Ok(())
}
