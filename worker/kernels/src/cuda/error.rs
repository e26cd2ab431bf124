//! What can go wrong with a GPU.

use thiserror::Error;

/// A GPU that cannot be used, or did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GpuError {
    /// No driver.
    #[error("libcuda.so.1 cannot be loaded; is NVIDIA's driver on this machine?")]
    NoDriver,
    /// A driver without that many devices.
    #[error("device {asked} was asked for, and the driver shows {found}")]
    NoDevice {
        /// The ordinal.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// A device that the kernels are not made for.
    #[error("{name} has compute capability {major}.{minor}; 8.0 is the least")]
    TooOld {
        /// The device's name.
        name: String,
        /// Its capability.
        major: u32,
        /// Its capability's second half.
        minor: u32,
    },
    /// Neither machine code for the device, nor a compiler.
    #[error(
        "this naru was built without kernels for {target} (`make kernels` makes \
         them), and libnvrtc.so, which would compile them now, cannot be loaded"
    )]
    NoCode {
        /// What code is wanted for.
        target: String,
    },
    /// The compiler refused a kernel.
    #[error("compiling the kernels of {op}: {log}")]
    Compile {
        /// The op.
        op: String,
        /// What the compiler said.
        log: String,
    },
    /// No memory for what was asked.
    #[error("no memory on the GPU for {bytes} bytes of {what}")]
    OutOfMemory {
        /// What should lie there.
        what: &'static str,
        /// How much of it.
        bytes: usize,
    },
    /// The driver said no.
    #[error("{doing} on the GPU: {code}")]
    Driver {
        /// What was asked.
        doing: String,
        /// The driver's name for what went wrong.
        code: String,
    },
}
