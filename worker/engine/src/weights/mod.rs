//! Weights: named tensors in mapped files, whichever format the files have.

mod map;
mod safetensors;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use naru_kernels::cuda::GpuError;
use naru_kernels::{DType, MatrixView, ShapeError, dequantise};
use thiserror::Error;

pub(crate) use map::MappedFile;
pub(crate) use safetensors::open_directory;

use crate::gguf::TensorInfo;

/// Tensors by name, in one or several mapped files.
#[derive(Debug)]
pub(crate) struct Tensors {
    files: Vec<Arc<MappedFile>>,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Option<DType>,
    format: String,
    /// Outermost first.
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// A matrix in a mapped file, kept apart from the borrow of a view.
#[derive(Clone, Debug)]
pub(crate) struct MappedMatrix {
    file: Arc<MappedFile>,
    dtype: DType,
    rows: usize,
    columns: usize,
    bytes: Range<usize>,
}

impl MappedMatrix {
    /// The matrix where the file has it.
    pub(crate) fn view(&self) -> Result<MatrixView<'_>, ShapeError> {
        let bytes = &self.file.bytes()[self.bytes.clone()];
        MatrixView::new(self.dtype, self.rows, self.columns, bytes)
    }

    /// Rows `range` of the matrix, which must have them.
    pub(crate) fn rows(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows of the matrix");
        // A matrix was checked against its bytes: whole rows, and at least one block in each.
        let row_bytes = self.bytes.len() / self.rows.max(1);
        let first = self.bytes.start;
        let bytes = first + range.start * row_bytes..first + range.end * row_bytes;
        Self { file: Arc::clone(&self.file), rows: range.len(), bytes, ..*self }
    }

    /// Takes what was touched of the matrix out of memory, until it is touched again.
    pub(crate) fn forget(&self) {
        self.file.forget(self.bytes.clone());
    }
}

impl Tensors {
    /// The tensors of a GGUF file.
    pub(crate) fn of_gguf(file: Arc<MappedFile>, tensors: &[TensorInfo]) -> Self {
        let entry = |tensor: &TensorInfo| Entry {
            file: 0,
            dtype: tensor.format.dtype(),
            format: tensor.format.name().to_owned(),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes.clone(),
        };
        let entries = tensors.iter().map(|tensor| (tensor.name.clone(), entry(tensor))).collect();
        Self { files: vec![file], entries }
    }

    /// Whether there is a tensor `name`.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of tensor `name`, outermost dimension first.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Bytes of all tensors.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes.len() as u64).sum()
    }

    /// Values in a block of tensor `name`; of one that is not there, or not computed on, 1.
    pub(crate) fn block_elements(&self, name: &str) -> usize {
        let dtype = self.entries.get(name).and_then(|entry| entry.dtype);
        dtype.map_or(1, DType::block_elements)
    }

    /// Matrix `name`. Errors: no such tensor, another shape, or a format that is not computed on.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<MappedMatrix, WeightError> {
        let (entry, dtype) = self.checked(name, &[rows, columns])?;
        let file = Arc::clone(&self.files[entry.file]);
        Ok(MappedMatrix { file, dtype, rows, columns, bytes: entry.bytes.clone() })
    }

    /// Vector `name` as floats. Errors: as [`matrix`](Self::matrix).
    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, WeightError> {
        let view = self.vector_part(name, length, 0..length)?;
        floats(&view).map_err(|source| WeightError::Layout { name: name.to_owned(), source })
    }

    /// Values `part` of vector `name` of `length` values where the file has them, as a matrix of
    /// one row. Errors: as [`matrix`](Self::matrix), and a part that cuts a block.
    pub(crate) fn vector_part(
        &self,
        name: &str,
        length: usize,
        part: Range<usize>,
    ) -> Result<MatrixView<'_>, WeightError> {
        let (entry, dtype) = self.checked(name, &[length])?;
        let bytes = &self.files[entry.file].bytes()[entry.bytes.clone()];
        let view = MatrixView::new(dtype, 1, length, bytes);
        let view = view.and_then(|view| view.slice_columns(part));
        view.map_err(|source| WeightError::Layout { name: name.to_owned(), source })
    }

    fn checked(&self, name: &str, shape: &[usize]) -> Result<(&Entry, DType), WeightError> {
        let owned = || name.to_owned();
        let entry = self.entries.get(name).ok_or_else(|| WeightError::Missing { name: owned() })?;
        if entry.shape != shape {
            let (expected, found) = (shape.to_vec(), entry.shape.clone());
            return Err(WeightError::Shape { name: owned(), expected, found });
        }
        let unsupported = || WeightError::Format { name: owned(), format: entry.format.clone() };
        Ok((entry, entry.dtype.ok_or_else(unsupported)?))
    }
}

/// The values of a vector's view.
pub(crate) fn floats(view: &MatrixView<'_>) -> Result<Vec<f32>, ShapeError> {
    let mut values = vec![0.0; view.columns()];
    dequantise(view.dtype(), view.row(0), &mut values)?;
    Ok(values)
}

/// A tensor that cannot be used, or files that do not hold what they should.
#[derive(Debug, Error)]
pub enum WeightError {
    /// No tensor of that name.
    #[error("tensor {name} is missing")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor of another shape than the configuration asks for.
    #[error("tensor {name} has shape {found:?}, where the configuration asks for {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// What the configuration asks for, outermost dimension first.
        expected: Vec<usize>,
        /// What the file has.
        found: Vec<usize>,
    },
    /// A format that is known by name only.
    #[error("tensor {name} is stored as {format}, which is not computed on")]
    Format {
        /// The tensor.
        name: String,
        /// Its format.
        format: String,
    },
    /// A tensor that the kernels cannot lay out, or not cut for this shard.
    #[error("tensor {name}")]
    Layout {
        /// The tensor.
        name: String,
        /// What does not fit.
        #[source]
        source: ShapeError,
    },
    /// A tensor that a device did not take.
    #[error("putting tensor {name} on the device")]
    Device {
        /// The tensor.
        name: String,
        /// What the device said.
        #[source]
        source: GpuError,
    },
    /// A file could not be mapped.
    #[error("opening {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file is no sound safetensors file.
    #[error("reading {path}")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ::safetensors::SafeTensorError,
    },
    /// An index of shards that does not agree with them.
    #[error("{path}: {reason}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
