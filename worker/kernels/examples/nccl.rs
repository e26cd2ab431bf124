//! Which NCCL the worker would sum by on this machine; no GPU is asked for.
//!
//! ```text
//! nccl [PATH]
//! ```
#![allow(clippy::print_stdout)]

use naru_kernels::cuda::Nccl;

fn main() -> Result<(), String> {
    let library = match std::env::args().nth(1) {
        Some(path) => Nccl::open_at(&path)?,
        None => Nccl::open()?,
    };
    let (major, minor, patch) = library.version();
    println!("NCCL {major}.{minor}.{patch}");
    Ok(())
}
