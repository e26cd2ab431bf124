//! Capped logits against the same in f64.

use naru_kernels::cuda::{CapLogitsTask, cap_logits};

use crate::machine::Machine;
use crate::numbers::{Random, download_f32, upload_f32};
use crate::report::{Report, Timing};

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    for (rows, vocabulary) in [(1, 1), (2, 255), (3, 1025), (1, 5000)] {
        for (multiplier, cap) in [(1.0, 30.0), (0.25, 0.0), (-2.0, 1e-3), (1e30, 50.0)] {
            cap_one(machine, report, (rows, vocabulary), (multiplier, cap));
        }
    }
}

fn cap_one(
    machine: &mut dyn Machine,
    report: &mut Report,
    (rows, vocabulary): (usize, usize),
    (multiplier, cap): (f32, f32),
) {
    let case = format!("cap {rows}x{vocabulary} {multiplier} {cap}");
    let mut values = Random(vocabulary as u64).normal(rows * vocabulary, 20.0);
    let extremes = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0, 1e-30];
    for (place, extreme) in values.iter_mut().skip(1).step_by(5).zip(extremes) {
        *place = extreme;
    }
    let logits = upload_f32(machine, &values);
    let task = CapLogitsTask { rows, vocabulary, logits, multiplier, cap };
    if let Err(error) = machine.launch(&cap_logits(&task).expect("sizes that fit")) {
        return report.fail("logits", case, error);
    }
    let expected: Vec<f64> = values
        .iter()
        .map(|&value| {
            // As far as f32 goes.
            let x = f64::from(value * multiplier);
            if cap > 0.0 { f64::from(cap) * (x / f64::from(cap)).tanh() } else { x }
        })
        .collect();
    let found = download_f32(machine, logits, rows * vocabulary);
    // The quotient's and the last product's rounding, and 2 units of tanh, each at most 2⁻²³ of
    // the result: tanh is never steeper than its argument. Below the normal numbers, a unit there.
    let bound = |i: usize| expected[i].abs() * 4.0 * 2f64.powi(-23) + 1e-44;
    report.compare("logits", case, &found, &expected, bound);
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let vocabulary = 128_256;
    for rows in [1, 64, 256] {
        let logits = upload_f32(machine, &Random(1).normal(rows * vocabulary, 3.0));
        let task = CapLogitsTask { rows, vocabulary, logits, multiplier: 1.0, cap: 30.0 };
        if let Some(seconds) = machine.seconds(&[cap_logits(&task).expect("sizes that fit")]) {
            let bytes = (rows * vocabulary * 8) as f64;
            let case = format!("cap {rows}x{vocabulary}");
            report.timings.push(Timing { op: "logits", case, seconds, bytes, flop: 0.0 });
        }
    }
}
