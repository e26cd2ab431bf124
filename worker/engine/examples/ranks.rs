//! What each rank of a model reads and holds, every rank a process of its own.
//!
//! ```text
//! ranks MODEL [TENSORxPIPELINE …]
//! ```
//!
//! Resident memory is what the system says of the process after the load, and at its peak: weights
//! laid out, pages of the file, and the program itself.
#![allow(clippy::print_stdout)]

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use naru_engine::{Decoder, ModelFiles, Parallelism, Shard};
use naru_kernels::ComputePool;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const MEBIBYTE: f64 = (1 << 20) as f64;

fn main() -> Result<()> {
    let asked: Vec<String> = env::args().skip(1).collect();
    match asked.as_slice() {
        [model, word, cut, rank] if word == "rank" => one(model, cut, rank.parse()?),
        [model] => table(model, &["1x1".to_owned()]),
        [model, cuts @ ..] if !cuts.is_empty() => table(model, cuts),
        _ => Err("usage: ranks MODEL [TENSORxPIPELINE …]".into()),
    }
}

fn parallelism(cut: &str) -> Result<Parallelism> {
    let (tensor, pipeline) = cut.split_once('x').ok_or("a cut is TENSORxPIPELINE")?;
    Ok(Parallelism::new(tensor.parse()?, pipeline.parse()?)?)
}

fn table(model: &str, cuts: &[String]) -> Result<()> {
    println!(
        "| tensor x pipeline | rank | read, MiB | laid out, MiB | resident, MiB | peak, MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for cut in cuts {
        for rank in 0..parallelism(cut)?.ranks() {
            let rank = rank.to_string();
            let own = env::current_exe()?;
            let told = Command::new(own).args([model, "rank", cut, &rank]).output()?;
            if !told.status.success() {
                return Err(String::from_utf8_lossy(&told.stderr).into());
            }
            print!("{}", String::from_utf8_lossy(&told.stdout));
        }
    }
    Ok(())
}

/// One rank's line, in a process that does nothing else.
fn one(model: &str, cut: &str, rank: usize) -> Result<()> {
    let files = ModelFiles::open(Path::new(model))?;
    let shard = Shard::of(files.config(), parallelism(cut)?, rank)?;
    let pool = Arc::new(ComputePool::start(NonZeroUsize::MIN)?);
    let mut read = 0;
    let decoder = Decoder::load(&files, shard, pool, &mut |told| read = told.bytes_done)?;
    let laid_out = decoder.weight_bytes() as f64 / MEBIBYTE;
    let read = read as f64 / MEBIBYTE;
    let (resident, peak) = (status("VmRSS:")?, status("VmHWM:")?);
    println!("| {cut} | {rank} | {read:.1} | {laid_out:.1} | {resident:.1} | {peak:.1} |");
    Ok(())
}

/// A line of what the system says of this process, which is in KiB, in MiB.
fn status(field: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no such line")?;
    Ok(kib.trim().parse::<f64>()? / 1024.0)
}
