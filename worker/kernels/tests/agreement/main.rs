//! Every CUDA kernel against a reference in f64, over a table of shapes with ragged ends and
//! extreme values: on the host shim everywhere, on a GPU with `--gpu`.
#![allow(missing_docs, unsafe_code, unreachable_pub)]

mod gate;
mod logits;
mod machine;
mod norm;
mod numbers;
mod report;
mod rope;
mod sampling;
mod shim;
mod shim_checks;

use std::process::ExitCode;

use machine::Machine;
use report::Report;

type Part = fn(&mut dyn Machine, &mut Report);

/// Each op's name, its comparisons and its timings.
#[rustfmt::skip]
const OPS: &[(&str, Part, Part)] = &[
    ("gate", gate::agree, gate::time),
    ("logits", logits::agree, logits::time),
    ("norm", norm::agree, norm::time),
    ("rope", rope::agree, rope::time),
    ("sampling", sampling::agree, sampling::time),
    ("shim", shim_checks::agree, |_, _| {}),
];

fn main() -> ExitCode {
    // Of cargo's own options, which a harness would take, only a name to filter by means something.
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let mut machine = match shim::Shim::start() {
        Ok(shim) => shim,
        Err(error) => {
            eprintln!("the kernels do not compile for the host:\n{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::default();
    for (op, agree, _) in OPS {
        if filter.as_ref().is_none_or(|filter| op.contains(filter.as_str())) {
            agree(&mut machine, &mut report);
            machine.clear();
        }
    }
    summarise(&machine, &report)
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
