//! Plain activations, in f64 where a function is called, so that they are the truth to compare
//! with.

use super::GateKind;

/// See the op; lengths are checked.
pub(super) fn gate(kind: GateKind, gate: &[f32], up: Option<&[f32]>, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let active = activate(kind, f64::from(gate[i]));
        *out = (active * up.map_or(1.0, |up| f64::from(up[i]))) as f32;
    }
}

fn activate(kind: GateKind, x: f64) -> f64 {
    match kind {
        GateKind::Silu => x / (1.0 + (-x).exp()),
        GateKind::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        GateKind::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        GateKind::Relu => x.max(0.0),
        GateKind::ReluSquared => x.max(0.0) * x.max(0.0),
    }
}

/// The error function to 1.2e-7. Source: Numerical Recipes, s.6.2 (Chebyshev fit of erfc).
fn erf(x: f64) -> f64 {
    const FIT: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let t = 1.0 / (1.0 + 0.5 * x.abs());
    let fit = FIT.iter().rev().fold(0.0, |sum, &c| sum * t + c);
    let complement = t * (-x * x + fit).exp();
    if x >= 0.0 { 1.0 - complement } else { complement - 1.0 }
}
