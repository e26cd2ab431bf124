//! Rows of heads among columns of zeros: every bit as it was.

use naru_kernels::cuda::{Element, WidenTask, widen_heads};

use crate::machine::Machine;
use crate::numbers::{Random, download, encode, rounded};
use crate::report::{Report, Timing};

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    let element = Element::F16;
    for (rows, lead, width, columns) in [
        (1, 0, 16, 32),
        (3, 16, 16, 32),
        (2, 64, 192, 512),
        (2, 0, 256, 256),
        (5, 192, 64, 256),
        (2, 128, 1024, 1280),
    ] {
        let case = format!("{rows}x{width} at {lead} of {columns}");
        let values = Random(columns as u64).normal(rows * width, 20.0);
        let input = machine.upload(&encode(element, &values));
        let output = machine.allocate(rows * columns * Element::BYTES);
        let task = WidenTask { rows, width, lead, columns, input, output };
        if let Err(error) = machine.launch(&widen_heads(&task).expect("sizes that fit")) {
            report.fail("widen", case, error);
            continue;
        }
        let values = rounded(element, &values);
        let mut expected = vec![0.0; rows * columns];
        for (row, out) in values.chunks_exact(width).zip(expected.chunks_exact_mut(columns)) {
            let heads = out[lead..].iter_mut().zip(row);
            heads.for_each(|(out, value)| *out = f64::from(*value));
        }
        let found = download(machine, element, output, rows * columns);
        report.compare("widen", case, &found, &expected, |_| 0.0);
    }
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let (rows, width, columns) = (8192, 128, 256);
    let input = machine.upload(&vec![0x2c; rows * width * Element::BYTES]);
    let output = machine.allocate(rows * columns * Element::BYTES);
    let task = WidenTask { rows, width, lead: 128, columns, input, output };
    if let Some(seconds) = machine.seconds(&[widen_heads(&task).expect("sizes that fit")]) {
        let bytes = (rows * (width + columns) * Element::BYTES) as f64;
        let case = format!("{rows}x{width} of {columns}");
        report.timings.push(Timing { op: "widen", case, seconds, bytes, flop: 0.0 });
    }
}
