//! Linear layers on a CUDA device.

use crate::cuda::matrix::checked_row_bytes;
use crate::cuda::{
    Argument, DeviceMatrix, DevicePointer, Element, Launch, Product, ProductShape, WeightFormat,
};
use crate::shape::{self, ShapeError};

const OP: &str = "linear";
/// The folder of the kernels.
const FOLDER: &str = "matmul";

/// Kernels by format and element.
type Kernels = [[&'static str; 2]; WeightFormat::ALL.len()];

macro_rules! kernels {
    ($kind:literal) => {
        kernels!(
            $kind,
            "f32" "f16" "bf16" "q4_0" "q4_1" "q5_0" "q5_1" "q8_0" "q4_k" "q5_k" "q6_k" "f8e4m3"
        )
    };
    ($kind:literal, $($format:literal)*) => {
        [$([concat!($kind, "_bf16_", $format), concat!($kind, "_f16_", $format)]),*]
    };
}

/// What a linear layer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearOutput {
    /// The element of its input.
    Element,
    /// 32-bit floats: logits, and what is added to a stream of them.
    F32,
}

/// `output = input · weightᵀ + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearTask {
    /// What activations are.
    pub element: Element,
    /// `[rows, columns]`.
    pub weight: DeviceMatrix,
    /// Element `[tokens, columns]`.
    pub input: DevicePointer,
    /// Rows of the input.
    pub tokens: usize,
    /// f32 `[rows]`, or null.
    pub bias: DevicePointer,
    /// `[tokens, rows]`.
    pub output: DevicePointer,
    /// What the output is.
    pub output_kind: LinearOutput,
    /// Values from a row of the output to the next: at least the weight's rows, more where others
    /// write the rest.
    pub output_stride: usize,
}

impl LinearTask {
    /// The same for a library: where weights are of the input's element, places are at multiples of
    /// 16 bytes, and there is no bias, which libraries want in the output's format.
    pub fn product(&self) -> Option<Product> {
        let &Self { element, weight, tokens, output_stride, .. } = self;
        let DeviceMatrix { format, rows, columns, pointer } = weight;
        let is_plain = format == element.pick(WeightFormat::Bf16, WeightFormat::F16);
        let is_aligned = [pointer, self.input, self.output].iter().all(|at| at.0 % 16 == 0);
        let is_whole = columns.is_multiple_of(8);
        if !is_plain || !is_aligned || !is_whole || self.bias != DevicePointer::NULL {
            return None;
        }
        let shape = ProductShape {
            element,
            tokens,
            rows,
            columns,
            weight_stride: DeviceMatrix::row_bytes(format, columns)? / Element::BYTES,
            output_stride,
            is_output_f32: self.output_kind == LinearOutput::F32,
        };
        Some(Product { shape, weight: pointer, input: self.input, output: self.output })
    }
}

/// More tokens than this are a library's to multiply, where it can. So many fill one of our tiles:
/// weights are read once, which is what takes the time, and a token has the same bits whichever
/// others are decoded with it. Beyond, it is the tensor cores that take the time.
const OWN_TOKENS_MAX: usize = 64;

/// The ways to compute a linear layer. A token has the same bits whichever other tokens there are
/// as long as the way does not change between [`Gemv`](Self::Gemv) and the others: those round
/// quantised weights to the element, and sum in another order. A library's [`Product`] promises
/// nothing of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearPath {
    /// Weights are read once for up to eight tokens, and summed without tensor cores. Any columns.
    Gemv,
    /// Tiles of 64 tokens and 64 rows on tensor cores. Columns are a multiple of 8.
    Tiles64,
    /// Tiles of 128 tokens and 128 rows on tensor cores. Columns are a multiple of 8.
    Tiles128,
}

impl LinearPath {
    /// What suits so many tokens: beyond eight, tensor cores; larger tiles once there are enough of
    /// them for every multiprocessor of a large device.
    pub fn of(tokens: usize, weight: &DeviceMatrix) -> Self {
        const BLOCKS_MIN: usize = 128;
        let large_blocks = tokens.div_ceil(128) * weight.rows.div_ceil(128);
        if tokens <= 8 || !weight.columns.is_multiple_of(8) {
            Self::Gemv
        } else if tokens <= 64 || large_blocks < BLOCKS_MIN {
            Self::Tiles64
        } else {
            Self::Tiles128
        }
    }
}

/// The launch of a linear layer, on the path that suits its sizes; a library may do it instead if
/// there are many tokens. Pointers are at multiples of 16 bytes. Errors: columns that are not whole
/// blocks; sizes over those of a grid.
pub fn linear(task: &LinearTask) -> Result<Launch, ShapeError> {
    let launch = linear_by(LinearPath::of(task.tokens, &task.weight), task)?;
    let product = if task.tokens > OWN_TOKENS_MAX { task.product() } else { None };
    Ok(Launch { product, ..launch })
}

/// The launch of a linear layer on a path of the caller's. Errors: as [`linear`], and columns that
/// the path does not take.
pub fn linear_by(path: LinearPath, task: &LinearTask) -> Result<Launch, ShapeError> {
    let sizes = Sizes::of(task)?;
    match path {
        LinearPath::Gemv => gemv(task, &sizes),
        LinearPath::Tiles64 => gemm(task, &sizes, &SMALL_TILE),
        LinearPath::Tiles128 => gemm(task, &sizes, &LARGE_TILE),
    }
}

/// Sizes as kernels take them.
struct Sizes {
    rows: u32,
    columns: u32,
    stride: u32,
    tokens: u32,
    output_stride: u32,
}

impl Sizes {
    fn of(task: &LinearTask) -> Result<Self, ShapeError> {
        let weight = &task.weight;
        let stride = checked_row_bytes(OP, weight.format, weight.columns)?;
        Ok(Self {
            rows: shape::to_u32(OP, "rows", weight.rows)?,
            columns: shape::to_u32(OP, "columns", weight.columns)?,
            stride: shape::to_u32(OP, "bytes of a row", stride)?,
            tokens: shape::to_u32(OP, "tokens", task.tokens)?,
            output_stride: shape::to_u32(OP, "values between rows", task.output_stride)?,
        })
    }

    fn arguments(&self, task: &LinearTask) -> Vec<Argument> {
        vec![
            task.weight.pointer.into(),
            task.input.into(),
            task.bias.into(),
            task.output.into(),
            self.rows.into(),
            self.columns.into(),
            self.stride.into(),
            self.tokens.into(),
            u32::from(task.output_kind == LinearOutput::F32).into(),
            self.output_stride.into(),
        ]
    }
}

/// See `kernel_gemv.cu`.
fn gemv(task: &LinearTask, sizes: &Sizes) -> Result<Launch, ShapeError> {
    const THREADS: u32 = 256;
    const BLOCK_ROWS: u32 = 16;
    const CHUNK: u32 = 16_384;
    let (kernels, width) = match sizes.tokens {
        0 | 1 => (&GEMV1, 1),
        2 => (&GEMV2, 2),
        3 | 4 => (&GEMV4, 4),
        _ => (&GEMV8, 8),
    };
    // Each octet of x has 16 bytes; behind every fourth 16 stay free.
    let octets = (CHUNK / width).min(sizes.columns.next_multiple_of(32)) / 8;
    Ok(Launch {
        op: FOLDER,
        kernel: pick(kernels, task),
        grid: [
            sizes.rows.div_ceil(BLOCK_ROWS),
            shape::grid_rows(OP, "tokens in eights", sizes.tokens.div_ceil(width) as usize)?,
            1,
        ],
        block: [THREADS, 1, 1],
        shared_bytes: width * (octets + octets / 4) * 16,
        arguments: sizes.arguments(task),
        product: None,
    })
}

/// What a block of `kernel_gemm.cu` computes.
struct Tile {
    kernels: Kernels,
    /// Tokens, and rows of the weight.
    side: u32,
    stages: u32,
    threads: u32,
}

const SMALL_TILE: Tile = Tile { kernels: kernels!("gemm64"), side: 64, stages: 4, threads: 128 };
const LARGE_TILE: Tile = Tile { kernels: kernels!("gemm128"), side: 128, stages: 3, threads: 256 };

/// See `kernel_gemm.cu`.
fn gemm(task: &LinearTask, sizes: &Sizes, tile: &Tile) -> Result<Launch, ShapeError> {
    const STAGE_ROW_BYTES: u32 = 128;
    shape::multiple(OP, "columns", 8, task.weight.columns)?;
    let row_tiles = sizes.rows.div_ceil(tile.side) as usize;
    Ok(Launch {
        op: FOLDER,
        kernel: pick(&tile.kernels, task),
        grid: [
            sizes.tokens.div_ceil(tile.side),
            shape::grid_rows(OP, "tiles of rows", row_tiles)?,
            1,
        ],
        block: [tile.threads, 1, 1],
        shared_bytes: tile.stages * 2 * tile.side * STAGE_ROW_BYTES,
        arguments: sizes.arguments(task),
        product: None,
    })
}

fn pick(kernels: &Kernels, task: &LinearTask) -> &'static str {
    let [bf16, f16] = kernels[task.weight.format as usize];
    task.element.pick(bf16, f16)
}

const GEMV1: Kernels = kernels!("gemv1");
const GEMV2: Kernels = kernels!("gemv2");
const GEMV4: Kernels = kernels!("gemv4");
const GEMV8: Kernels = kernels!("gemv8");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_products_of_plain_weights_are_for_a_library() {
        let task = |format, tokens, columns, bias| LinearTask {
            element: Element::F16,
            weight: DeviceMatrix { format, rows: 5, columns, pointer: DevicePointer(16) },
            input: DevicePointer(32),
            tokens,
            bias: DevicePointer(bias),
            output: DevicePointer(48),
            output_kind: LinearOutput::F32,
            output_stride: 7,
        };
        let product = |format, tokens, columns, bias| {
            linear(&task(format, tokens, columns, bias)).unwrap().product
        };
        use WeightFormat::{Bf16, F16, Q8_0};
        assert_eq!(product(Bf16, 512, 64, 0), None, "weights of another element");
        assert_eq!(product(Q8_0, 512, 64, 0), None, "quantised weights");
        assert_eq!(product(F16, 512, 65, 0), None, "rows that are padded");
        assert_eq!(product(F16, 512, 64, 64), None, "a bias");
        assert_eq!(product(F16, OWN_TOKENS_MAX, 64, 0), None, "few tokens");
        let beside = LinearTask { output: DevicePointer(50), ..task(F16, 512, 64, 0) };
        assert_eq!(beside.product(), None, "a place between multiples of 16");
        let found = product(F16, OWN_TOKENS_MAX + 1, 64, 0).unwrap();
        assert_eq!((found.weight, found.input.0, found.output.0), (DevicePointer(16), 32, 48));
        let ProductShape { weight_stride, output_stride, is_output_f32, .. } = found.shape;
        assert_eq!((weight_stride, output_stride, is_output_f32), (64, 7, true));
        let own = linear_by(LinearPath::Tiles128, &task(F16, 512, 64, 0)).unwrap();
        assert_eq!(own.product, None, "who names a path gets it");
    }
}
