//! Memory of the host that a GPU reaches by itself.

use std::sync::Arc;

use cudarc::driver::result;

use super::GpuError;
use super::gpu::{Context, failed};

/// Memory of the host that stays where it is, so that copies from and to it need no help of the
/// processor.
#[derive(Debug)]
pub(super) struct PinnedMemory {
    context: Arc<Context>,
    start: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory of its own.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    /// So many bytes, zero. Errors: the system has not so many to give.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, GpuError> {
        context.enter()?;
        // SAFETY: freed by the drop of what is returned.
        let start = unsafe { result::malloc_host(bytes.max(16), 0) };
        let start = start.map_err(failed("pinning memory of the host"))?.cast::<u8>();
        // SAFETY: so many bytes begin there.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { context: Arc::clone(context), start, bytes })
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes begin there.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    /// Its bytes.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes begin there, and they are ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }

    /// Its bytes as 32-bit words.
    pub(super) fn words(&self) -> &[u32] {
        // SAFETY: pages are aligned, and every pattern is a word.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.bytes / size_of::<u32>()) }
    }

    /// Its bytes as 32-bit floats.
    pub(super) fn floats(&self) -> &[f32] {
        // SAFETY: pages are aligned, and every pattern is a float.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.bytes / size_of::<f32>()) }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated once, by us.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}
