//! The `cuda` backend: the GPUs that it computes on.

use std::ops::Range;

use anyhow::ensure;
use naru_kernels::cuda::{Gpu, GpuError};

use crate::args::{Args, BackendArg};
use crate::ranks::RankSettings;

/// What `--help` says of the backend.
pub(crate) const HELP: &str = "NVIDIA GPUs of compute capability 8.0 or later, one for each rank";

/// Which GPUs compute: one for each rank here, from --device on; on another backend there are none.
/// Errors: one is named for a backend that uses none.
pub(crate) fn devices(args: &Args, ranks: Option<&RankSettings>) -> anyhow::Result<Range<u32>> {
    if args.backend != BackendArg::Cuda {
        ensure!(args.device.is_none(), "--device needs --backend cuda");
        return Ok(0..0);
    }
    let (first, count) = (args.device.unwrap_or(0), ranks.map_or(1, |ranks| ranks.ranks.len()));
    // Beyond all numbers there is no GPU either, which opening the first of them says.
    Ok(first..first.saturating_add(u32::try_from(count).unwrap_or(u32::MAX)))
}

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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn each_rank_here_has_the_next_gpu() {
        #[track_caller]
        fn check(line: &str, expected: Range<u32>) {
            let words = ["naru-worker", "--model", "m.gguf"].into_iter();
            let args = Args::try_parse_from(words.chain(line.split_whitespace())).unwrap();
            let ranks = RankSettings::new(&args).unwrap();
            assert_eq!(devices(&args, ranks.as_ref()).unwrap(), expected, "{line}");
        }
        check("", 0..0);
        check("--backend cuda", 0..1);
        check("--backend cuda --device 3", 3..4);
        check("--backend cuda --tensor 4 --devices-per-member 4", 0..4);
        let line = "--backend cuda --device 2 --tensor 2 --pipeline 2 --devices-per-member 2 \
                    --members a:1,b:1 --member 1";
        check(line, 2..4);
        check("--tensor 2 --devices-per-member 2", 0..0);
    }
}
