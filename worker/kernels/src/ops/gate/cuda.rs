//! [`gate`](super::gate) on a CUDA device.

use super::GateKind;
use crate::cuda::{DevicePointer, Element, Launch};
use crate::shape::{self, ShapeError};

const OP: &str = "gate";
const THREADS: u32 = 256;

/// The rows of a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateTask {
    /// What the values are.
    pub element: Element,
    /// The activation.
    pub kind: GateKind,
    /// Whether each row is `[gate, up]`, or what is activated alone.
    pub is_gated: bool,
    /// Rows.
    pub rows: usize,
    /// Values of a row of the output.
    pub width: usize,
    /// `[rows, 2 * width]`, or `[rows, width]`.
    pub input: DevicePointer,
    /// `[rows, width]`.
    pub output: DevicePointer,
}

/// The launch of a gate over rows. Errors: more rows than a grid has.
pub fn gate(task: &GateTask) -> Result<Launch, ShapeError> {
    let rows = shape::grid_rows(OP, "rows", task.rows)?;
    let width = shape::to_u32(OP, "width", task.width)?;
    Ok(Launch {
        op: OP,
        kernel: task.element.pick("gate_bf16", "gate_f16"),
        grid: [width.div_ceil(THREADS), rows, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
        arguments: vec![
            task.input.into(),
            task.output.into(),
            width.into(),
            (task.kind as u32).into(),
            u32::from(task.is_gated).into(),
        ],
        product: None,
    })
}
