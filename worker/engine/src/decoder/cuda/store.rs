//! Weights on a device: laid out by the processor while the piece before is copied.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use naru_kernels::cuda::{Device, DeviceMatrix, DevicePointer, GpuError, WeightFormat, lay_out};
use naru_kernels::{ComputePool, MatrixView, ShapeError, Stretches};

use super::super::load::{Store, layout};
use crate::weights::{MappedMatrix, WeightError};

/// Bytes that are laid out while as many are copied: enough to hide what a copy costs to begin.
const PIECE_BYTES: usize = 16 << 20;

/// The matrices of one projection, each with its own format, whose outputs follow one another.
pub(super) type DeviceWeight = Vec<DeviceMatrix>;

/// A device's memory.
pub(super) struct DeviceStore<'a> {
    device: RefCell<&'a mut dyn Device>,
    pool: &'a ComputePool,
    /// What is also the output head where embeddings are tied.
    tables: RefCell<HashMap<String, DeviceMatrix>>,
}

impl<'a> DeviceStore<'a> {
    pub(super) fn new(device: &'a mut dyn Device, pool: &'a ComputePool) -> Self {
        Self { device: RefCell::new(device), pool, tables: RefCell::default() }
    }

    /// Lays out views of one format under each other.
    fn put(&self, name: &str, views: &[MatrixView<'_>]) -> Result<DeviceMatrix, WeightError> {
        let format = WeightFormat::from(views[0].dtype());
        let columns = views[0].columns();
        let rows = views.iter().map(MatrixView::rows).sum();
        let bytes = DeviceMatrix::bytes(format, rows, columns);
        let row_bytes = DeviceMatrix::row_bytes(format, columns);
        let (bytes, row_bytes) =
            bytes.zip(row_bytes).ok_or_else(|| layout(name, too_wide(columns)))?;
        let failed = |source| WeightError::Device { name: name.to_owned(), source };
        let pointer = self.device.borrow_mut().allocate("weights", bytes).map_err(failed)?;
        let mut first = 0;
        for view in views {
            self.put_rows(name, view, pointer.offset(first * row_bytes), row_bytes)?;
            first += view.rows();
        }
        Ok(DeviceMatrix { format, rows, columns, pointer })
    }

    /// Lays out one view at a place.
    fn put_rows(
        &self,
        name: &str,
        view: &MatrixView<'_>,
        to: DevicePointer,
        row_bytes: usize,
    ) -> Result<(), WeightError> {
        let rows_of_piece = (PIECE_BYTES / row_bytes.max(1)).max(1);
        let pieces = pieces(view.rows(), rows_of_piece);
        let places: Vec<Range<usize>> =
            pieces.iter().map(|piece| piece.start * row_bytes..piece.end * row_bytes).collect();
        let mut refused = Ok(());
        let mut device = self.device.borrow_mut();
        let put = device.upload_pieces(to, &places, &mut |piece, out| {
            let done = self.lay_out_rows(view, pieces[piece].clone(), row_bytes, out);
            if done.is_err() {
                refused = done;
            }
        });
        put.map_err(|source| WeightError::Device { name: name.to_owned(), source })?;
        refused.map_err(|source| layout(name, source))
    }

    /// Lays out some rows, on all threads.
    fn lay_out_rows(
        &self,
        view: &MatrixView<'_>,
        rows: Range<usize>,
        row_bytes: usize,
        out: &mut [u8],
    ) -> Result<(), ShapeError> {
        let refused = Mutex::new(Ok(()));
        self.pool.run_rows(out, row_bytes, &|row, out| {
            let row = rows.start + row;
            let done = view.slice_rows(row..row + 1).and_then(|part| lay_out(&part, out));
            if done.is_err() {
                *refused.lock().unwrap_or_else(|broken| broken.into_inner()) = done;
            }
        });
        refused.into_inner().unwrap_or_else(|broken| broken.into_inner())
    }
}

impl Store for DeviceStore<'_> {
    type Matrix = DeviceWeight;
    type Vector = DevicePointer;
    type Table = DeviceMatrix;

    fn matrix(
        &self,
        name: &str,
        views: &[MatrixView<'_>],
        _stretches: Stretches,
    ) -> Result<DeviceWeight, WeightError> {
        if let Some(table) = self.tables.borrow().get(name) {
            let is_whole = matches!(views, [view] if view.rows() == table.rows);
            if is_whole {
                return Ok(vec![*table]);
            }
        }
        // Mixed files have another format for values than for queries and keys.
        let of_format = views.chunk_by(|a, b| a.dtype() == b.dtype());
        of_format.map(|views| self.put(name, views)).collect()
    }

    fn vector(&self, name: &str, values: Vec<f32>) -> Result<DevicePointer, WeightError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut device = self.device.borrow_mut();
        let put = |device: &mut dyn Device| -> Result<DevicePointer, GpuError> {
            let pointer = device.allocate("weights", bytes.len())?;
            device.upload(pointer, &bytes)?;
            Ok(pointer)
        };
        put(&mut **device).map_err(|source| WeightError::Device { name: name.to_owned(), source })
    }

    fn table(&self, name: &str, matrix: MappedMatrix) -> Result<DeviceMatrix, WeightError> {
        let view = matrix.view().map_err(|source| layout(name, source))?;
        let table = self.put(name, &[view])?;
        self.tables.borrow_mut().insert(name.to_owned(), table);
        Ok(table)
    }
}

fn pieces(rows: usize, at_a_time: usize) -> Vec<Range<usize>> {
    (0..rows).step_by(at_a_time).map(|first| first..(first + at_a_time).min(rows)).collect()
}

/// A view has whole blocks and is in memory, so this is what may be wrong.
fn too_wide(columns: usize) -> ShapeError {
    let limit = u32::MAX as usize / 8;
    ShapeError::Limit { op: "weights on a device", what: "columns", limit, found: columns }
}
