//! The `cuda` backend: whether this machine has what it computes on.

/// What `--help` says of the backend.
pub(crate) const HELP: &str =
    "One NVIDIA GPU; this worker was built without CUDA kernels, and says so";

/// Looks whether the GPU with this number can be computed on.
///
/// Errors: why not, in words that follow "no usable GPU: ".
pub(crate) fn probe(_device: u32) -> Result<(), String> {
    Err("this worker was built without CUDA kernels".to_owned())
}
