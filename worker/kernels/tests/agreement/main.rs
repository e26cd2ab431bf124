//! Every CUDA kernel against a reference in f64, over a table of shapes with ragged ends and
//! extreme values: on the host shim everywhere, on a GPU with `--gpu`.
#![allow(missing_docs, unsafe_code, unreachable_pub)]
// What was compared is the point of the run.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod attention;
mod embed;
mod gate;
#[cfg(feature = "cuda")]
mod gpu;
mod linear;
mod logits;
mod machine;
mod norm;
mod numbers;
mod report;
mod rope;
mod sampling;
mod shim;
mod shim_checks;
mod weights;
mod widen;

use std::path::PathBuf;
use std::process::ExitCode;

use machine::Machine;
use report::{Report, Timing};

type Part = fn(&mut dyn Machine, &mut Report);

/// Each op's name, its comparisons and its timings.
#[rustfmt::skip]
const OPS: &[(&str, Part, Part)] = &[
    ("attention", attention::agree, attention::time),
    ("embed", embed::agree, embed::time),
    ("gate", gate::agree, gate::time),
    ("linear", linear::agree, linear::time),
    ("logits", logits::agree, logits::time),
    ("norm", norm::agree, norm::time),
    ("rope", rope::agree, rope::time),
    ("sampling", sampling::agree, sampling::time),
    ("widen", widen::agree, widen::time),
    ("shim", shim_checks::agree, |_, _| {}),
];

/// What the command line asks for. Of cargo's own options, which a harness would take, none means
/// anything here.
#[derive(Debug, Default)]
struct Asked {
    /// Run on the first GPU, not on the shim.
    gpu: bool,
    /// Time the kernels too.
    time: bool,
    /// Where to write everything that was found.
    json: Option<PathBuf>,
    /// Only ops with this in their names.
    filter: Option<String>,
}

fn main() -> ExitCode {
    let mut asked = Asked::default();
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--gpu" => asked.gpu = true,
            "--time" => asked.time = true,
            word if word.starts_with("--json=") => asked.json = Some(word[7..].into()),
            word if word.starts_with('-') => {}
            word => asked.filter = Some(word.to_owned()),
        }
    }
    let started = if asked.gpu { start_gpu() } else { start_shim() };
    let mut machine = match started {
        Ok(machine) => machine,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::default();
    for (op, agree, time) in OPS {
        if asked.filter.as_ref().is_some_and(|filter| !op.contains(filter.as_str())) {
            continue;
        }
        agree(machine.as_mut(), &mut report);
        machine.clear();
        if asked.time {
            time(machine.as_mut(), &mut report);
            machine.clear();
        }
    }
    if let Some(path) = asked.json {
        std::fs::write(path, report.to_json(&machine.name())).expect("the report can be written");
    }
    summarise(machine.as_ref(), &report)
}

fn start_shim() -> Result<Box<dyn Machine>, String> {
    let shim = shim::Shim::start();
    Ok(Box::new(shim.map_err(|error| format!("the kernels do not compile here:\n{error}"))?))
}

#[cfg(feature = "cuda")]
fn start_gpu() -> Result<Box<dyn Machine>, String> {
    let gpu = gpu::OnGpu::start()?;
    println!("{:?}", gpu.gpu().description());
    Ok(Box::new(gpu))
}

#[cfg(not(feature = "cuda"))]
fn start_gpu() -> Result<Box<dyn Machine>, String> {
    Err("built without the feature cuda".to_owned())
}

fn summarise(machine: &dyn Machine, report: &Report) -> ExitCode {
    for (op, _, _) in OPS {
        let of_op: Vec<_> = report.outcomes.iter().filter(|outcome| outcome.op == *op).collect();
        let worst = of_op.iter().map(|outcome| outcome.worst).fold(0.0, f64::max);
        println!(
            "{op}: {} cases on {}, worst {worst:.3} of its bound",
            of_op.len(),
            machine.name()
        );
    }
    for Timing { op, case, seconds, bytes, flop } in &report.timings {
        let (gigabytes, teraflop) = (bytes / seconds / 1e9, flop / seconds / 1e12);
        let microseconds = seconds * 1e6;
        println!("{op} {case}: {microseconds:.1} us, {gigabytes:.0} GB/s, {teraflop:.1} TFLOP/s");
    }
    let failures: Vec<_> =
        report.outcomes.iter().filter(|outcome| outcome.failure.is_some()).collect();
    for outcome in &failures {
        let why = outcome.failure.as_deref().unwrap_or_default();
        println!("FAILED {} {}: {why}", outcome.op, outcome.case);
    }
    let failed = failures.len();
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {} passed; {failed} failed", report.outcomes.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
