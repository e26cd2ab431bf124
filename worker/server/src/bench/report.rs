//! What was measured, for people and for programs.

use std::fmt::Write;
use std::thread;

use naru_kernels::cuda::Nccl;
use serde::Serialize;

use super::measure::{Measured, Operation};

/// What one implementation took.
#[derive(Serialize)]
pub(super) struct Table {
    pub(super) between: &'static str,
    pub(super) rows: Vec<Measured>,
}

/// Everything.
#[derive(Serialize)]
pub(super) struct Report {
    ranks: usize,
    cores: usize,
    measured: Vec<Table>,
    /// Whether NCCL is there, by which GPUs sum among themselves; nothing is measured with it.
    nccl: String,
}

impl Report {
    pub(super) fn new(measured: Vec<Table>) -> Self {
        let cores = thread::available_parallelism().map_or(1, Into::into);
        let nccl = match Nccl::open() {
            Ok(nccl) => {
                let (major, minor, patch) = nccl.version();
                format!("{major}.{minor}.{patch} can be loaded; it joins GPUs, and is not measured")
            }
            Err(why) => format!("not measured, and not there: {why}"),
        };
        Self { ranks: 2, cores, measured, nccl }
    }

    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// A table for each implementation, of a line for each size.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "Two ranks on this machine, {} cores. Microseconds of the median and (99th percentile) \
             of one way; GB/s of the median.\nA broadcast is answered without values. Between \
             threads a message changes hands and is not copied.\n",
            self.cores
        );
        for Table { between, rows } in &self.measured {
            let head = Operation::ALL.map(|operation| format!("{:>30}", title(operation)));
            let _ = writeln!(text, "\n{between}\n{:>8}{}", "bytes", head.concat());
            for row in rows.iter().filter(|row| row.operation == Operation::ALL[0]) {
                let _ = write!(text, "{:>8}", size(row.bytes));
                let same = |other: &&Measured| other.bytes == row.bytes;
                for cell in rows.iter().filter(same) {
                    let _ = write!(text, "{:>30}", words(cell));
                }
                text.push('\n');
            }
        }
        let _ = writeln!(text, "\nNCCL: {}", self.nccl);
        text
    }
}

fn title(operation: Operation) -> &'static str {
    match operation {
        Operation::AllReduce => "all-reduce",
        Operation::Broadcast => "broadcast",
        Operation::SendReceive => "send and receive",
    }
}

fn words(cell: &Measured) -> String {
    let micros = |seconds: f64| seconds * 1e6;
    let (p50, p99) = (micros(cell.seconds_p50), micros(cell.seconds_p99));
    format!("{p50:.1} ({p99:.1}) {:>7.3} GB/s", cell.bytes_per_second / 1e9)
}

fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}
