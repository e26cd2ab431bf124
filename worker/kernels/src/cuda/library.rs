//! Products by cuBLASLt, where it is installed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{result as driver, sys::CUstream};

use super::gpu::{Context, failed};
use super::{DevicePointer, Element, GpuError, Product, ProductShape};

/// What NVIDIA advises for Hopper; older devices do with less.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Products stand at multiples of this.
const ALIGNMENT_BYTES: u32 = 16;
/// Shapes to remember: each number of tokens of a prompt makes a few. A kilobyte each.
const PLANS_MAX: usize = 8192;

/// The library, opened. Products are queued on one stream, one after the other: they share the
/// workspace.
#[derive(Debug)]
pub(super) struct Library {
    /// What the library said to each shape.
    plans: HashMap<ProductShape, Result<Plan, GpuError>>,
    handle: Owned<sys::cublasLtContext>,
    workspace: DevicePointer,
    context: Arc<Context>,
}

/// How it computes products of one shape. It is column-major: our rows are its columns, so that it
/// computes `outputᵀ [rows, tokens] = weight · inputᵀ`.
#[derive(Debug)]
struct Plan {
    operation: Owned<sys::cublasLtMatmulDescOpaque_t>,
    weight: Owned<sys::cublasLtMatrixLayoutOpaque_t>,
    input: Owned<sys::cublasLtMatrixLayoutOpaque_t>,
    output: Owned<sys::cublasLtMatrixLayoutOpaque_t>,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// Something that the library made, and what takes it back.
#[derive(Debug)]
struct Owned<T>(*mut T, unsafe fn(*mut T) -> sys::cublasStatus_t);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made once, and this is its one owner.
        let _ = unsafe { (self.1)(self.0) };
    }
}

fn refused(doing: &str) -> impl Fn(CublasError) -> GpuError {
    move |error| GpuError::Driver { doing: doing.to_owned(), code: format!("{:?}", error.0) }
}

impl Library {
    /// Opens the library in the context, which the thread has entered. Errors: why there is none.
    pub(super) fn open(context: &Arc<Context>) -> Result<Self, String> {
        // SAFETY: loads NVIDIA's library if it is there. Without it every other call panics.
        if !unsafe { sys::is_culib_present() } {
            return Err("libcublasLt.so cannot be loaded".to_owned());
        }
        let handle = result::create_handle().map_err(refused("opening cuBLASLt"));
        let handle = Owned(handle.map_err(|error| error.to_string())?, sys::cublasLtDestroy);
        // SAFETY: freed by the drop of what is returned.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE_BYTES) };
        let workspace = workspace.map_err(failed("allocating cuBLASLt's workspace"));
        let workspace = DevicePointer(workspace.map_err(|error| error.to_string())?);
        Ok(Self { plans: HashMap::new(), handle, workspace, context: Arc::clone(context) })
    }

    /// Its name and version.
    pub(super) fn name(&self) -> String {
        use sys::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
        let number = |part| {
            let mut number = 0;
            // SAFETY: writes one number.
            let _ = unsafe { sys::cublasLtGetProperty(part, &mut number) };
            number
        };
        let [major, minor, patch] = [MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL].map(number);
        format!("cuBLASLt {major}.{minor}.{patch}")
    }

    /// Queues a product. Errors: the library does not do it; from then on it is not asked again for
    /// products of this shape.
    pub(super) fn multiply(&mut self, product: &Product, stream: CUstream) -> Result<(), GpuError> {
        self.context.enter()?;
        if self.plans.len() >= PLANS_MAX {
            self.plans.clear();
        }
        let plan = match self.plans.entry(product.shape) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Plan::new(&self.handle, &product.shape)),
        };
        let queued = plan.as_ref().map_err(Clone::clone)?;
        let queued = queued.queue(&self.handle, product, self.workspace, stream);
        if let Err(error) = &queued {
            *plan = Err(error.clone());
        }
        queued
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated once, by us; freeing waits for the work that uses it.
            let _ = unsafe { driver::free_sync(self.workspace.0) };
        }
    }
}

impl Plan {
    /// Asks the library how it would go about a shape.
    fn new(handle: &Owned<sys::cublasLtContext>, shape: &ProductShape) -> Result<Self, GpuError> {
        use sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};
        let element = match shape.element {
            Element::Bf16 => CUDA_R_16BF,
            Element::F16 => CUDA_R_16F,
        };
        let written = if shape.is_output_f32 { CUDA_R_32F } else { element };
        let columns = shape.columns;
        let (weight, input, output) = (
            layout(element, (columns, shape.rows), shape.weight_stride)?,
            layout(element, (columns, shape.tokens), columns)?,
            layout(written, (shape.rows, shape.tokens), shape.output_stride)?,
        );
        let operation = weight_transposed(CUDA_R_32F)?;
        let preference = preference()?;
        // SAFETY: all of them are alive. The output stands for what would be added to it as well.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                handle.0,
                operation.0,
                weight.0,
                input.0,
                output.0,
                output.0,
                preference.0,
            )
        };
        let algorithm = found.map_err(refused("asking cuBLASLt for an algorithm"))?.algo;
        Ok(Self { operation, weight, input, output, algorithm })
    }

    fn queue(
        &self,
        handle: &Owned<sys::cublasLtContext>,
        product: &Product,
        workspace: DevicePointer,
        stream: CUstream,
    ) -> Result<(), GpuError> {
        let (one, zero) = (1f32, 0f32);
        let at = |pointer: DevicePointer| pointer.0 as *mut std::ffi::c_void;
        // SAFETY: the op holds that sizes are true; memory outlives the work because whoever frees
        // it waits for the stream first. Times zero, the output is not read.
        let queued = unsafe {
            result::matmul(
                handle.0,
                self.operation.0,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                at(product.weight),
                self.weight.0,
                at(product.input),
                self.input.0,
                at(product.output),
                self.output.0,
                at(product.output),
                self.output.0,
                &self.algorithm,
                at(workspace),
                WORKSPACE_BYTES,
                stream.cast(),
            )
        };
        queued.map_err(refused("multiplying by cuBLASLt"))
    }
}

/// A column-major matrix, with so many values from a column to the next.
fn layout(
    values: sys::cudaDataType_t,
    (rows, columns): (usize, usize),
    stride: usize,
) -> Result<Owned<sys::cublasLtMatrixLayoutOpaque_t>, GpuError> {
    let made = result::create_matrix_layout(values, rows as u64, columns as u64, stride as i64);
    let made = made.map_err(refused("describing a matrix to cuBLASLt"))?;
    Ok(Owned(made, sys::cublasLtMatrixLayoutDestroy))
}

/// A product of the first matrix, transposed, with the second as it is.
fn weight_transposed(
    scale: sys::cudaDataType_t,
) -> Result<Owned<sys::cublasLtMatmulDescOpaque_t>, GpuError> {
    /// CUBLAS_OP_T.
    const TRANSPOSED: i32 = 1;
    let describing = refused("describing a product to cuBLASLt");
    let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
    let made = result::create_matmul_desc(compute, scale).map_err(&describing)?;
    let operation = Owned(made, sys::cublasLtMatmulDescDestroy);
    let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
    let (value, bytes) = (ptr::from_ref(&TRANSPOSED).cast(), size_of::<i32>());
    // SAFETY: the attribute is 32 bits.
    unsafe { result::set_matmul_desc_attribute(operation.0, which, value, bytes) }
        .map_err(&describing)?;
    Ok(operation)
}

/// What algorithms must keep to: the workspace, the alignment, and that parts of a sum are added as
/// 32-bit floats, not as what is written.
fn preference() -> Result<Owned<sys::cublasLtMatmulPreferenceOpaque_t>, GpuError> {
    use sys::cublasLtMatmulPreferenceAttributes_t::{
        CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as WORKSPACE,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES as ALIGNMENT_A,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES as ALIGNMENT_B,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES as ALIGNMENT_C,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES as ALIGNMENT_D,
        CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK as REDUCTION,
    };
    let describing = refused("telling cuBLASLt what is preferred");
    let made = result::create_matmul_pref().map_err(&describing)?;
    let preference = Owned(made, sys::cublasLtMatmulPreferenceDestroy);
    let set = |which, value: *const std::ffi::c_void, bytes| {
        // SAFETY: the workspace is 64 bits, everything else here 32.
        unsafe { result::set_matmul_pref_attribute(preference.0, which, value, bytes) }
            .map_err(&describing)
    };
    let workspace = WORKSPACE_BYTES as u64;
    set(WORKSPACE, ptr::from_ref(&workspace).cast(), size_of::<u64>())?;
    let in_floats = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    set(REDUCTION, ptr::from_ref(&in_floats).cast(), size_of::<u32>())?;
    for which in [ALIGNMENT_A, ALIGNMENT_B, ALIGNMENT_C, ALIGNMENT_D] {
        set(which, ptr::from_ref(&ALIGNMENT_BYTES).cast(), size_of::<u32>())?;
    }
    Ok(preference)
}
