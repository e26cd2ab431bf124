//! Norms on a CUDA device, joined with the residual stream that they read.

use crate::cuda::{Argument, DevicePointer, Element, Launch};
use crate::shape::{self, ShapeError};

const OP: &str = "norm";
/// Values of a vector, and their alignment in bytes.
const VECTOR: usize = 8;
const ALIGNMENT: u64 = 16;
const THREADS_MAX: usize = 1024;

/// Which norm, in the kernels' order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceNormKind {
    /// [`rms_norm`](crate::rms_norm).
    Rms,
    /// [`rms_norm_one_plus`](crate::rms_norm_one_plus).
    RmsPlusOne,
    /// [`layer_norm`](crate::layer_norm).
    Layer,
}

/// A norm whose parameters lie on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceNorm {
    /// Which.
    pub kind: DeviceNormKind,
    /// What is added to the mean square.
    pub epsilon: f32,
    /// f32 `[width]`.
    pub weight: DevicePointer,
    /// f32 `[width]`, or null.
    pub bias: DevicePointer,
}

impl DeviceNorm {
    /// What a kernel takes for a norm that may be absent.
    pub(crate) fn arguments(norm: Option<Self>) -> [Argument; 4] {
        let kind = norm.map_or(DeviceNormKind::Layer as u32 + 1, |norm| norm.kind as u32);
        let (weight, bias) = norm.map_or_else(Default::default, |norm| (norm.weight, norm.bias));
        [kind.into(), norm.map_or(0.0, |norm| norm.epsilon).into(), weight.into(), bias.into()]
    }
}

/// Whether a kernel may read eight values at once at each of these places, and of these norms.
pub(crate) fn are_aligned(places: &[DevicePointer], norms: [Option<DeviceNorm>; 2]) -> bool {
    let of_norms = norms.into_iter().flatten().flat_map(|norm| [norm.weight, norm.bias]);
    places.iter().copied().chain(of_norms).all(|place| place.0.is_multiple_of(ALIGNMENT))
}

/// The rows of a residual norm: `stream += factor * post(block)`, then `output = pre(stream)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResidualNormTask {
    /// What the values of `block` and `output` are.
    pub element: Element,
    /// Rows of the output.
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
    /// f32 `[tokens, width]`: the residual stream.
    pub stream: DevicePointer,
    /// `[tokens, width]`: what a block returned. Null: nothing to add.
    pub block: DevicePointer,
    /// The norm of the block before it is added.
    pub post: Option<DeviceNorm>,
    /// What the block is multiplied by.
    pub factor: f32,
    /// u32 `[rows]`: row `i` of the output reads row `pick[i]` of `stream` and `block`, and
    /// `stream` is not written. Null: row `i`.
    pub pick: DevicePointer,
    /// The norm of the sum before it is written to `output`; none: the sum itself.
    pub pre: Option<DeviceNorm>,
    /// `[rows, width]`. Null: only the stream is updated.
    pub output: DevicePointer,
}

/// The launch of a residual norm. Errors: a row is too wide for the registers of a block.
pub fn residual_norm(task: &ResidualNormTask) -> Result<Launch, ShapeError> {
    let rows = shape::to_u32(OP, "rows", task.rows)?;
    let narrow = THREADS_MAX * VECTOR;
    shape::at_most(OP, "width", 2 * narrow, task.width)?;
    let (vectors, kernel) = if task.width <= narrow {
        (1, task.element.pick("residual_norm_bf16_1", "residual_norm_f16_1"))
    } else {
        (2, task.element.pick("residual_norm_bf16_2", "residual_norm_f16_2"))
    };
    let threads = task.width.div_ceil(vectors * VECTOR).next_multiple_of(32);
    let places = [task.stream, task.block, task.output];
    let is_vector =
        task.width.is_multiple_of(VECTOR) && are_aligned(&places, [task.post, task.pre]);
    let mut arguments = vec![
        task.stream.into(),
        task.block.into(),
        task.pick.into(),
        task.output.into(),
        (task.width as u32).into(),
        u32::from(is_vector).into(),
        task.factor.into(),
    ];
    arguments.extend(DeviceNorm::arguments(task.post));
    arguments.extend(DeviceNorm::arguments(task.pre));
    Ok(Launch {
        op: OP,
        kernel,
        grid: [rows, 1, 1],
        block: [threads as u32, 1, 1],
        shared_bytes: 0,
        arguments,
        product: None,
    })
}
