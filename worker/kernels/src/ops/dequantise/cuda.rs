//! Rows of an embedding table on a CUDA device.

use crate::cuda::matrix::checked_row_bytes;
use crate::cuda::{DeviceMatrix, DevicePointer, Launch, WeightFormat};
use crate::shape::{self, ShapeError};

const OP: &str = "embed";
const THREADS: u32 = 128;

/// The tokens of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbedTask {
    /// `[vocabulary, columns]`, or some of its rows.
    pub table: DeviceMatrix,
    /// u32 `[rows]`, counted from the table's first row; one without a row there becomes zeros.
    pub tokens: DevicePointer,
    /// Tokens.
    pub rows: usize,
    /// What every value is multiplied by.
    pub multiplier: f32,
    /// f32 `[rows, columns]`.
    pub output: DevicePointer,
}

/// The launch that reads a table. Errors: columns that are not whole blocks; more tokens than a
/// grid has rows.
pub fn embed(task: &EmbedTask) -> Result<Launch, ShapeError> {
    let EmbedTask { table, tokens, rows, multiplier, output } = *task;
    let stride = checked_row_bytes(OP, table.format, table.columns)?;
    let stride = shape::to_u32(OP, "bytes of a row", stride)?;
    let columns = shape::to_u32(OP, "columns", table.columns)?;
    let held = shape::to_u32(OP, "rows of the table", table.rows)?;
    let (kernel, unit) = kernel(table.format);
    Ok(Launch {
        op: "dequantise",
        kernel,
        grid: [columns.div_ceil(unit * THREADS), shape::grid_rows(OP, "rows", rows)?, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            table.pointer.into(),
            tokens.into(),
            output.into(),
            held.into(),
            columns.into(),
            stride.into(),
            multiplier.into(),
        ],
        product: None,
    })
}

/// The kernel, and the values that a thread of it decodes.
fn kernel(format: WeightFormat) -> (&'static str, u32) {
    match format {
        WeightFormat::F32 => ("embed_f32", 8),
        WeightFormat::F16 => ("embed_f16", 8),
        WeightFormat::Bf16 => ("embed_bf16", 8),
        WeightFormat::Q4_0 => ("embed_q4_0", 32),
        WeightFormat::Q4_1 => ("embed_q4_1", 32),
        WeightFormat::Q5_0 => ("embed_q5_0", 32),
        WeightFormat::Q5_1 => ("embed_q5_1", 32),
        WeightFormat::Q8_0 => ("embed_q8_0", 16),
        WeightFormat::Q4_K => ("embed_q4_k", 32),
        WeightFormat::Q5_K => ("embed_q5_k", 32),
        WeightFormat::Q6_K => ("embed_q6_k", 32),
        WeightFormat::F8E4M3 => ("embed_f8e4m3", 16),
    }
}
