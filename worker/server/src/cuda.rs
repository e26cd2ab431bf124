//! The `cuda` backend: the GPU that it computes on.

use naru_kernels::cuda::{Gpu, GpuError};

/// What `--help` says of the backend.
pub(crate) const HELP: &str = "One NVIDIA GPU of compute capability 8.0 or later";

/// Opens the GPU with this number. Errors: why it cannot be computed on, in words that follow "no
/// usable GPU: ".
pub(crate) fn open(device: u32) -> Result<Box<Gpu>, GpuError> {
    let gpu = Box::new(Gpu::open(device as usize)?);
    let about = gpu.description();
    let kernels = if about.is_compiled_ahead { "compiled ahead" } else { "compiled at start" };
    tracing::info!(
        device,
        name = about.name,
        capability = format!("{}.{}", about.capability.0, about.capability.1),
        driver = format!("CUDA {}.{}", about.driver.0, about.driver.1),
        memory_bytes = about.memory_bytes,
        kernels,
        products = about.products,
        "computing on a GPU"
    );
    Ok(gpu)
}
