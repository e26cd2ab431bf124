//! What runs launches: the host shim, or a GPU.

use naru_kernels::cuda::{DevicePointer, Launch, Product};

use crate::shim::{NAME, Shim};

/// A device with its own memory.
pub trait Machine {
    /// What it is, for reports.
    fn name(&self) -> String;

    /// So many bytes, all of them 0xff: floats that were not written are NaN.
    fn allocate(&mut self, bytes: usize) -> DevicePointer;

    /// A copy of `bytes` in its memory.
    fn upload(&mut self, bytes: &[u8]) -> DevicePointer;

    /// What lies at a place.
    fn download(&mut self, from: DevicePointer, bytes: usize) -> Vec<u8>;

    /// Runs one launch to its end.
    fn launch(&mut self, launch: &Launch) -> Result<(), String>;

    /// Computes a product by the machine's library, by hand and recorded; None where it has none.
    fn multiply(&mut self, product: &Product) -> Option<Result<(), String>>;

    /// Gives back everything that was allocated or uploaded.
    fn clear(&mut self);

    /// Seconds of one pass over `launches`, the median of several; None where time means nothing.
    fn seconds(&mut self, launches: &[Launch]) -> Option<f64>;
}

impl Machine for Shim {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn allocate(&mut self, bytes: usize) -> DevicePointer {
        Self::allocate(self, bytes)
    }

    fn upload(&mut self, bytes: &[u8]) -> DevicePointer {
        Self::upload(self, bytes)
    }

    fn download(&mut self, from: DevicePointer, bytes: usize) -> Vec<u8> {
        Self::download(self, from, bytes)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), String> {
        Self::launch(self, launch)
    }

    fn multiply(&mut self, _product: &Product) -> Option<Result<(), String>> {
        None
    }

    fn clear(&mut self) {
        Self::clear(self);
    }

    fn seconds(&mut self, _launches: &[Launch]) -> Option<f64> {
        None
    }
}
