//! Weights laid out for the processor, made once at load.

use crate::dtype::DType;
use crate::matrix::MatrixView;
use crate::pool::ComputePool;
use crate::shape::{self, ShapeError};

/// A weight matrix `[rows, columns]` in this crate's own layout. It may be a stack of several
/// matrices, each in its own format (q, k and v; gate and up), which one [`matmul`](super::matmul)
/// multiplies in one go.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    pub(super) segments: Vec<Segment>,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) dtype: DType,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) bytes: Vec<u8>,
}

impl PackedMatrix {
    /// Packs one matrix, on all threads. Errors: quantised columns that are not a multiple of 32.
    pub fn pack(view: &MatrixView<'_>, pool: &ComputePool) -> Result<Self, ShapeError> {
        Self::pack_stacked(std::slice::from_ref(view), pool)
    }

    /// Packs several matrices under each other; row 0 of the second follows the last row of the
    /// first. Formats may differ. Errors: the columns differ, or there is no matrix.
    pub fn pack_stacked(views: &[MatrixView<'_>], pool: &ComputePool) -> Result<Self, ShapeError> {
        const OP: &str = "pack";
        shape::at_most(OP, "one matrix, missing ones", 0, usize::from(views.is_empty()))?;
        let columns = views[0].columns();
        let (mut rows, mut segments) = (0, Vec::new());
        for view in views {
            shape::exactly(OP, "columns", columns, view.columns())?;
            let row_bytes = view.dtype().row_bytes(columns).unwrap_or(0);
            let mut bytes = vec![0; row_bytes * view.rows()];
            pool.run_rows(&mut bytes, row_bytes.max(1), &|row, out| {
                out.copy_from_slice(view.row(row));
            });
            let segment =
                Segment { dtype: view.dtype(), first_row: rows, rows: view.rows(), bytes };
            segments.push(segment);
            rows += view.rows();
        }
        Ok(Self { rows, columns, segments })
    }

    /// Rows: values that a token's product has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: values that a token's row has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of memory the weights take.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes.len()).sum()
    }
}
