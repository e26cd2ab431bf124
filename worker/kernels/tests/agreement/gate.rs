//! Gate against the activations in f64.

use naru_kernels::GateKind;
use naru_kernels::cuda::{Element, GateTask, gate};

use crate::machine::Machine;
use crate::numbers::{Random, download, encode, held, rounded};
use crate::report::{Report, Timing};

const KINDS: [GateKind; 5] =
    [GateKind::Silu, GateKind::Gelu, GateKind::GeluTanh, GateKind::Relu, GateKind::ReluSquared];

/// Rows and widths: one value, ragged ends of blocks, more than one block.
const SIZES: [(usize, usize); 4] = [(1, 1), (3, 255), (2, 257), (5, 1536)];

pub fn agree(machine: &mut dyn Machine, report: &mut Report) {
    for element in Element::ALL {
        for kind in KINDS {
            for (rows, width) in SIZES {
                for is_gated in [true, false] {
                    one(
                        machine,
                        report,
                        GateTask {
                            element,
                            kind,
                            is_gated,
                            rows,
                            width,
                            input: Default::default(),
                            output: Default::default(),
                        },
                    );
                }
            }
        }
    }
}

fn one(machine: &mut dyn Machine, report: &mut Report, task: GateTask) {
    let GateTask { element, kind, is_gated, rows, width, .. } = task;
    let case = format!("{} {kind:?} gated={is_gated} {rows}x{width}", element.name());
    let row_width = if is_gated { 2 * width } else { width };
    let mut values = Random(width as u64).normal(rows * row_width, 3.0);
    // Where exponentials overflow and vanish.
    for (place, extreme) in values.iter_mut().step_by(7).zip([-88.0, 88.0, -200.0, 200.0, 0.0]) {
        *place = extreme;
    }
    let values = rounded(element, &values);
    let input = machine.upload(&encode(element, &values));
    let output = machine.allocate(rows * width * Element::BYTES);
    let task = GateTask { input, output, ..task };
    let launch = gate(&task).expect("sizes that fit");
    if let Err(error) = machine.launch(&launch) {
        return report.fail("gate", case, error);
    }
    let found = download(machine, element, output, rows * width);
    let expected: Vec<f64> = (0..rows * width)
        .map(|i| {
            let row = &values[i / width * row_width..][..row_width];
            let up = if is_gated { f64::from(row[width + i % width]) } else { 1.0 };
            held(element, activate(kind, f64::from(row[i % width])) * up)
        })
        .collect();
    // One rounding to the element; before it eˣ to 2 units of f32 and its argument's own rounding
    // (up to 88 · 2⁻²⁴), or tanh likewise; 1 + tanh cancels for large negative x, where at most
    // |x| · 2⁻²⁴ is left. Below the normal range of halves the unit is absolute.
    report.compare("gate", case, &found, &expected, |i| {
        let row = &values[i / width * row_width..][..row_width];
        let up = if is_gated { f64::from(row[width + i % width]).abs() } else { 1.0 };
        let x = f64::from(row[i % width]).abs();
        let cancelled = (x + x * x * x * 0.05) * up * 2f64.powi(-22);
        expected[i].abs() * (element.epsilon() + 1e-5) + cancelled.min(x * up * 1e-4) + 6e-8
    });
}

fn activate(kind: GateKind, x: f64) -> f64 {
    match kind {
        GateKind::Silu => x / (1.0 + (-x).exp()),
        GateKind::Gelu => 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        GateKind::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        GateKind::Relu => x.max(0.0),
        GateKind::ReluSquared => x.max(0.0) * x.max(0.0),
    }
}

/// The complement of the error function, by its series near 0 and its continued fraction
/// elsewhere. Source: Abramowitz and Stegun, 7.1.6 and 7.1.14.
fn erfc(x: f64) -> f64 {
    if x.abs() < 2.5 {
        let mut term = x;
        let mut sum = x;
        for n in 1..80 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp();
    }
    let size = x.abs();
    let fraction = (1..60).rev().fold(size, |below, n| size + f64::from(n) / 2.0 / below);
    let tail = (-x * x).exp() / std::f64::consts::PI.sqrt() / fraction;
    if x > 0.0 { tail } else { 2.0 - tail }
}

pub fn time(machine: &mut dyn Machine, report: &mut Report) {
    let (rows, width, element) = (8192, 14_336, Element::Bf16);
    let input = machine.upload(&encode(element, &Random(1).normal(2 * rows * width, 1.0)));
    let output = machine.allocate(rows * width * Element::BYTES);
    let kind = GateKind::Silu;
    let task = GateTask { element, kind, is_gated: true, rows, width, input, output };
    let launch = gate(&task).expect("sizes that fit");
    if let Some(seconds) = machine.seconds(&[launch]) {
        let bytes = (3 * rows * width * Element::BYTES) as f64;
        let case = format!("silu bf16 {rows}x{width}");
        report.timings.push(Timing { op: "gate", case, seconds, bytes, flop: 0.0 });
    }
}
