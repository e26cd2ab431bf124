//! Dequantise: the blocks of a file as the floats they stand for.
//!
//! Used where a few rows are read (embedding tables, norms, biases) and as the reference of
//! everything that computes on packed weights.

pub(crate) mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::dtype::DType;
use crate::matrix::MatrixView;
use crate::shape::{self, ShapeError};

pub(crate) use reference::{k_scales, read_f16};

/// Writes the floats that `blocks` of `dtype` stand for into `out`. Errors: `out` is not whole
/// blocks or `blocks` has another length than `out` needs. Source: `dequantize_row_*` of ggml, from
/// the format's definition.
pub fn dequantise(dtype: DType, blocks: &[u8], out: &mut [f32]) -> Result<(), ShapeError> {
    const OP: &str = "dequantise";
    shape::multiple(OP, "values", dtype.block_elements(), out.len())?;
    let expected = out.len() / dtype.block_elements() * dtype.block_bytes();
    shape::exactly(OP, "bytes", expected, blocks.len())?;
    reference::dequantise(dtype, blocks, out);
    Ok(())
}

/// Writes row `row` of `table` into `out` [columns]. Errors: no such row; `out` has another length.
pub fn embed_row(table: &MatrixView<'_>, row: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    const OP: &str = "embed row";
    shape::at_most(OP, "row", table.rows().saturating_sub(1), row)?;
    shape::exactly(OP, "rows of the table", table.rows().max(1), table.rows())?;
    shape::exactly(OP, "values", table.columns(), out.len())?;
    reference::dequantise(table.dtype(), table.row(row), out);
    Ok(())
}
