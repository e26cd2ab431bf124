//! A GPU as a machine.

use std::time::Instant;

use naru_kernels::cuda::{Device, DevicePointer, Gpu, GpuError, Launch, Product};

use crate::machine::Machine;

/// How long one timing may take.
const SECONDS_MAX: f64 = 0.3;
/// More than any second-level cache: written between timings.
const FLUSH_BYTES: usize = 256 << 20;

/// A device.
pub struct OnGpu {
    gpu: Gpu,
}

impl OnGpu {
    /// Opens the first device.
    pub fn start() -> Result<Self, String> {
        let gpu = Gpu::open(0).map_err(|error| error.to_string())?;
        Ok(Self { gpu })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

impl Machine for OnGpu {
    fn name(&self) -> String {
        self.gpu.description().name.clone()
    }

    fn allocate(&mut self, bytes: usize) -> DevicePointer {
        let pointer = self.gpu.allocate("a case", bytes).expect("memory for a case");
        self.gpu.fill(pointer, 0xff, bytes).expect("memory that can be filled");
        pointer
    }

    fn upload(&mut self, bytes: &[u8]) -> DevicePointer {
        let pointer = self.allocate(bytes.len());
        self.gpu.upload(pointer, bytes).expect("memory that can be written");
        pointer
    }

    fn download(&mut self, from: DevicePointer, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.gpu.download(&mut out, from).expect("memory that can be read");
        out
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), String> {
        let done = self.gpu.launch(launch).and_then(|()| self.gpu.synchronize());
        done.map_err(|error| error.to_string())
    }

    fn multiply(&mut self, product: &Product) -> Option<Result<(), String>> {
        let queue = |gpu: &mut Gpu| gpu.multiply(product).transpose().map(|_| ());
        let both = |gpu: &mut Gpu| -> Result<(), GpuError> {
            queue(gpu)?;
            gpu.synchronize()?;
            let graph = gpu.record(queue)?;
            gpu.replay(&graph)?;
            gpu.synchronize()
        };
        self.gpu.has_library().then(|| both(&mut self.gpu).map_err(|error| error.to_string()))
    }

    fn clear(&mut self) {
        self.gpu.clear();
    }

    fn seconds(&mut self, launches: &[Launch]) -> Option<f64> {
        let queue = |gpu: &mut Gpu| launches.iter().try_for_each(|launch| gpu.launch(launch));
        // Once by hand: modules load and attributes are set outside of the recording.
        queue(&mut self.gpu).and_then(|()| self.gpu.synchronize()).ok()?;
        let graph = self.gpu.record(queue).ok()?;
        let flush = self.gpu.allocate("a flush", FLUSH_BYTES).ok()?;
        let begin = Instant::now();
        let mut found = Vec::new();
        while found.len() < 5 || (found.len() < 30 && begin.elapsed().as_secs_f64() < SECONDS_MAX) {
            self.gpu.fill(flush, 0, FLUSH_BYTES).ok()?;
            found.push(self.gpu.seconds_of(&graph).ok()?);
        }
        found.sort_by(f64::total_cmp);
        Some(found[found.len() / 2])
    }
}
