//! Capped logits against the same in f64, and the greatest of rows.

use naru_kernels::cuda::{ArgmaxTask, CapLogitsTask, argmax, cap_logits};

use crate::machine::Machine;
use crate::numbers::{Random, download_f32, download_u32, upload_f32};
use crate::report::{Report, Timing};

const NO_TOKEN: u32 = 0xffff_ffff;

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    for (rows, vocabulary) in [(1, 1), (2, 255), (3, 1025), (1, 5000)] {
        for (multiplier, cap) in [(1.0, 30.0), (0.25, 0.0), (-2.0, 1e-3), (1e30, 50.0)] {
            cap_one(machine, report, (rows, vocabulary), (multiplier, cap));
        }
    }
    argmax_all(machine, report);
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

fn argmax_all(machine: &mut dyn Machine, report: &mut Report) {
    let (nan, least) = (f32::NAN, f32::NEG_INFINITY);
    let rows: Vec<(Vec<f32>, u32)> = vec![
        (vec![0.5], 0),
        (vec![1.0, 3.0, 3.0, nan], 1),
        (vec![nan, -1.0, least], 1),
        (vec![-0.0, 0.0, -1.0], 0),
        (vec![nan, least, least], NO_TOKEN),
        (vec![least, f32::MIN, least], 1),
        (vec![1.0, f32::INFINITY, f32::MAX, f32::INFINITY], 1),
    ];
    for (row, expected) in rows {
        argmax_one(machine, report, 1, row.len(), &row, &[expected]);
    }
    for (rows, vocabulary) in [(3, 257), (2, 1024), (2, 4101)] {
        let values = Random(vocabulary as u64).normal(rows * vocabulary, 5.0);
        // Coarse, so that there are equals.
        let values: Vec<f32> = values.into_iter().map(|value| value.round()).collect();
        let first_greatest = |row: &[f32]| {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter().position(|&value| value == most).expect("rows have values") as u32
        };
        let expected: Vec<u32> = values.chunks(vocabulary).map(first_greatest).collect();
        argmax_one(machine, report, rows, vocabulary, &values, &expected);
    }
}

fn argmax_one(
    machine: &mut dyn Machine,
    report: &mut Report,
    rows: usize,
    vocabulary: usize,
    values: &[f32],
    expected: &[u32],
) {
    let case = format!("argmax {rows}x{vocabulary}");
    let (logits, tokens) = (upload_f32(machine, values), machine.allocate(rows * 4));
    let task = ArgmaxTask { rows, vocabulary, logits, tokens };
    if let Err(error) = machine.launch(&argmax(&task).expect("sizes that fit")) {
        return report.fail("logits", case, error);
    }
    let found: Vec<f64> = download_u32(machine, tokens, rows).into_iter().map(f64::from).collect();
    let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
    report.compare("logits", case, &found, &expected, |_| 0.0);
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let vocabulary = 128_256;
    for rows in [1, 64, 256] {
        let logits = upload_f32(machine, &Random(1).normal(rows * vocabulary, 3.0));
        let tokens = machine.allocate(rows * 4);
        let cap = CapLogitsTask { rows, vocabulary, logits, multiplier: 1.0, cap: 30.0 };
        let most = ArgmaxTask { rows, vocabulary, logits, tokens };
        let launches = [("cap", 8, cap_logits(&cap)), ("argmax", 4, argmax(&most))];
        for (name, bytes, launch) in launches {
            if let Some(seconds) = machine.seconds(&[launch.expect("sizes that fit")]) {
                let bytes = (rows * vocabulary * bytes) as f64;
                let case = format!("{name} {rows}x{vocabulary}");
                report.timings.push(Timing { op: "logits", case, seconds, bytes, flop: 0.0 });
            }
        }
    }
}
