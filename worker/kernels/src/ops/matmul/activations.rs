//! The left side of a matmul: hidden states and their int8 form, made once and shared by every
//! matmul that reads them.

use crate::pool::ComputePool;
use crate::shape::{self, ShapeError};

/// Hidden states `[tokens, columns]`. Buffers are kept between steps, so one value serves one place
/// in the decoder for ever.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Activations {
    /// No tokens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for `tokens` rows and calls `row` once with each token's index and row of
    /// `columns` values to write (it holds stale numbers before), then quantises the row, tokens in
    /// parallel.
    pub fn fill(
        &mut self,
        pool: &ComputePool,
        tokens: usize,
        columns: usize,
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        self.tokens = tokens;
        self.columns = columns;
        self.values.resize(tokens * columns, 0.0);
        pool.run_rows(&mut self.values, columns, row);
    }

    /// As [`fill`](Self::fill) with the rows of `values`. Errors: `values` is not whole rows of
    /// `columns`.
    pub fn copy_from(
        &mut self,
        pool: &ComputePool,
        columns: usize,
        values: &[f32],
    ) -> Result<(), ShapeError> {
        shape::multiple("activations", "values", columns, values.len())?;
        self.fill(pool, values.len() / columns, columns, &|token, row| {
            row.copy_from_slice(&values[token * columns..][..columns]);
        });
        Ok(())
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The floats `[tokens, columns]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}
