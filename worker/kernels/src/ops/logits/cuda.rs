//! Logits on a CUDA device.

use crate::cuda::{DevicePointer, Launch};
use crate::shape::{self, ShapeError};

const OP: &str = "logits";
const CAP_THREADS: usize = 256;
const CAP_VALUES: usize = 4;

/// Logits that are multiplied and capped in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CapLogitsTask {
    /// Rows.
    pub rows: usize,
    /// Logits of a row.
    pub vocabulary: usize,
    /// f32 `[rows, vocabulary]`.
    pub logits: DevicePointer,
    /// What each is multiplied by first.
    pub multiplier: f32,
    /// What they then stay inside of, smoothly; 0: nothing.
    pub cap: f32,
}

/// The launch for such logits. Errors: more rows than a grid has.
pub fn cap_logits(task: &CapLogitsTask) -> Result<Launch, ShapeError> {
    let rows = shape::grid_rows(OP, "rows", task.rows)?;
    let vocabulary = shape::to_u32(OP, "vocabulary", task.vocabulary)?;
    Ok(Launch {
        op: OP,
        kernel: "cap_logits",
        grid: [vocabulary.div_ceil((CAP_THREADS * CAP_VALUES) as u32), rows, 1],
        block: [CAP_THREADS as u32, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            task.logits.into(),
            vocabulary.into(),
            task.multiplier.into(),
            task.cap.into(),
        ],
        product: None,
    })
}
