//! The `cuda` backend: the GPUs that it computes on.

use std::env;
use std::ops::Range;

use anyhow::ensure;
use naru_kernels::cuda::{Gpu, GpuError, Nccl};

use crate::args::{Args, BackendArg};
use crate::ranks::RankSettings;

/// What `--help` says of the backend.
pub(crate) const HELP: &str = "NVIDIA GPUs of compute capability 8.0 or later, one for each rank";

/// Set to 1, GPUs sum among themselves, where the library for it is installed.
const NCCL: &str = "NARU_NCCL";

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

/// Opens these GPUs, one for each of `ranks`, and says how they sum. Errors: why one of them cannot
/// be computed on, in words that follow "no usable GPU: ".
pub(crate) fn open(
    devices: Range<u32>,
    ranks: Option<&RankSettings>,
) -> Result<Vec<Gpu>, GpuError> {
    let mut gpus: Vec<Gpu> = devices.map(open_one).collect::<Result<_, _>>()?;
    if !gpus.is_empty() && ranks.is_some_and(|ranks| ranks.parallelism.tensor() > 1) {
        let is_wanted = env::var(NCCL).is_ok_and(|value| value == "1");
        let library = Nccl::open();
        let version = library.as_ref().map(Nccl::version).map_err(String::as_str);
        tracing::info!("sums between GPUs: {}", way(version, is_wanted));
        if let Some(library) = library.ok().filter(|_| is_wanted) {
            gpus.iter_mut().for_each(|gpu| gpu.use_nccl(library.clone()));
        }
    }
    Ok(gpus)
}

/// How GPUs sum, in words, where NCCL is of this version or is not there.
fn way(version: Result<(u32, u32, u32), &str>, is_wanted: bool) -> String {
    match (version, is_wanted) {
        (Ok((major, minor, patch)), true) => {
            format!("by NCCL {major}.{minor}.{patch}, if all ranks can")
        }
        (Ok((major, minor, patch)), false) => {
            format!("over the host; NCCL {major}.{minor}.{patch} is here, {NCCL}=1 asks for it")
        }
        (Err(why), _) => format!("over the host: {why}"),
    }
}

fn open_one(device: u32) -> Result<Gpu, GpuError> {
    let gpu = Gpu::open(device as usize)?;
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

    #[test]
    fn one_line_says_how_gpus_sum() {
        let missing = Err("libnccl.so.2 cannot be loaded");
        for (version, is_wanted, expected) in [
            (Ok((2, 32, 3)), true, "by NCCL 2.32.3, if all ranks can"),
            (Ok((2, 32, 3)), false, "over the host; NCCL 2.32.3 is here, NARU_NCCL=1 asks for it"),
            (missing, true, "over the host: libnccl.so.2 cannot be loaded"),
            (missing, false, "over the host: libnccl.so.2 cannot be loaded"),
        ] {
            assert_eq!(way(version, is_wanted), expected);
        }
    }
}
