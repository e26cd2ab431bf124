//! Matmul: `out = x · Wᵀ` of packed weights, one token or many.

mod activations;
mod cpu;
pub(crate) mod cuda;
mod layout;
mod output;
mod pack;
mod packed;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod tile;

pub use activations::Activations;
pub use packed::{PackedMatrix, Stretches};

use crate::pool::ComputePool;
use crate::shape::{self, ShapeError};

/// Where a product goes.
#[derive(Debug)]
pub enum MatmulOutput<'a> {
    /// It replaces these values.
    Set(&'a mut [f32]),
    /// It is added to these: a residual connection.
    Add(&'a mut [f32]),
    /// It replaces these, and the sums of its stretches are not rounded to floats: what others have
    /// of the same product is still to be added.
    Wide(&'a mut [f64]),
}

impl MatmulOutput<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Set(values) | Self::Add(values) => values.len(),
            Self::Wide(values) => values.len(),
        }
    }
}

/// `out [tokens, rows] = x [tokens, columns] · weight [rows, columns]ᵀ`, or `+=` with
/// [`MatmulOutput::Add`]. A token's result has the same bits whatever other tokens are in `x` and
/// however many threads the pool has. Quantised weights are multiplied with the int8 form of `x` (a
/// scale per 32 values); F32, F16 and BF16 weights with its floats.
///
/// Products are added in f32 along all columns, or those of each of the weight's [`Stretches`],
/// whose sums are added in f64. Errors: a size does not fit.
pub fn matmul(
    pool: &ComputePool,
    weight: &PackedMatrix,
    x: &Activations,
    out: MatmulOutput<'_>,
) -> Result<(), ShapeError> {
    const OP: &str = "matmul";
    shape::exactly(OP, "columns of x", weight.columns(), x.columns())?;
    shape::exactly(OP, "output", weight.rows() * x.tokens(), out.len())?;
    if out.len() > 0 {
        cpu::matmul(pool, weight, x, out);
    }
    Ok(())
}
