//! A matrix of weights where the file has it: a view, no copy.

use std::ops::Range;

use crate::dtype::DType;
use crate::shape::{self, ShapeError};

const OP: &str = "matrix view";

/// A row-major matrix `[rows, columns]` of any [`DType`] inside bytes that somebody else holds;
/// rows and block-aligned columns can be cut out of it without copying, which is how a tensor shard
/// gets its part.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    dtype: DType,
    rows: usize,
    columns: usize,
    row_stride_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> MatrixView<'a> {
    /// A matrix that fills `bytes` exactly. Errors: columns are not whole blocks; `bytes` has
    /// another length.
    pub fn new(
        dtype: DType,
        rows: usize,
        columns: usize,
        bytes: &'a [u8],
    ) -> Result<Self, ShapeError> {
        shape::multiple(OP, "columns", dtype.block_elements(), columns)?;
        let too_big = ShapeError::Limit {
            op: OP,
            what: "columns",
            limit: isize::MAX as usize,
            found: columns,
        };
        let row_stride_bytes = dtype.row_bytes(columns).ok_or(too_big)?;
        let expected = row_stride_bytes.checked_mul(rows).ok_or(too_big)?;
        shape::exactly(OP, "bytes", expected, bytes.len())?;
        Ok(Self { dtype, rows, columns, row_stride_bytes, bytes })
    }

    /// The rows `range` of this matrix. Errors: the range leaves it.
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Self, ShapeError> {
        shape::at_most(OP, "end of the rows", self.rows, range.end)?;
        shape::at_most(OP, "start of the rows", range.end, range.start)?;
        let rows = range.end - range.start;
        let first = range.start * self.row_stride_bytes;
        let bytes = if rows == 0 { &[] } else { &self.bytes[first..] };
        Ok(Self { rows, bytes, ..*self })
    }

    /// The columns `range` of this matrix. Errors: the range leaves it or cuts a block.
    pub fn slice_columns(&self, range: Range<usize>) -> Result<Self, ShapeError> {
        let block = self.dtype.block_elements();
        shape::at_most(OP, "end of the columns", self.columns, range.end)?;
        shape::at_most(OP, "start of the columns", range.end, range.start)?;
        shape::multiple(OP, "start of the columns", block, range.start)?;
        shape::multiple(OP, "end of the columns", block, range.end)?;
        let columns = range.end - range.start;
        let first = range.start / block * self.dtype.block_bytes();
        let bytes = if columns == 0 || self.rows == 0 { &[] } else { &self.bytes[first..] };
        Ok(Self { columns, bytes, ..*self })
    }

    /// The format of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: outputs of a matmul, entries of an embedding table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: values in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The blocks of `row`, which must be below [`rows`](Self::rows).
    pub fn row(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of {} rows", self.rows);
        let length = self.columns / self.dtype.block_elements() * self.dtype.block_bytes();
        let first = row * self.row_stride_bytes;
        &self.bytes[first..first + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q8(rows: usize, columns: usize) -> Vec<u8> {
        (0..rows * columns / 32 * 34).map(|i| i as u8).collect()
    }

    #[test]
    fn a_view_must_fill_its_bytes() {
        let bytes = q8(2, 64);
        let view = |rows, columns| MatrixView::new(DType::Q8_0, rows, columns, &bytes).err();
        assert_eq!(view(2, 64), None);
        assert_eq!(
            view(3, 64).map(|e| e.to_string()).as_deref(),
            Some("matrix view: bytes must be 204, not 136")
        );
        assert_eq!(
            view(2, 65).map(|e| e.to_string()).as_deref(),
            Some("matrix view: columns must be a multiple of 32, not 65")
        );
        assert!(view(usize::MAX, 64).is_some(), "a product that overflows is refused");
    }

    #[test]
    fn slices_are_the_parts_they_name() {
        let bytes = q8(4, 96);
        let whole = MatrixView::new(DType::Q8_0, 4, 96, &bytes).unwrap();
        let part = whole.slice_rows(1..3).unwrap().slice_columns(32..96).unwrap();
        assert_eq!((part.rows(), part.columns()), (2, 64));
        assert_eq!(part.row(1), &whole.row(2)[34..102]);
        assert!(whole.slice_columns(16..96).is_err(), "a slice may not cut a block");
        assert!(whole.slice_rows(2..5).is_err(), "a slice may not leave the matrix");
        assert_eq!(whole.slice_rows(4..4).unwrap().rows(), 0);
    }
}
