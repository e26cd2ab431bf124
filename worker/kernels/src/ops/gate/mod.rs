//! Gate: the activation between the projections of a feed-forward block.

mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::cpu::Cpu;
use crate::shape::{self, ShapeError};
use crate::simd;

/// The activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateKind {
    /// `x / (1 + e^-x)` (SwiGLU when gated). Source: GLU Variants Improve Transformer (2020).
    Silu,
    /// `x Φ(x)` with the normal distribution's own function. Source: Gaussian Error Linear Units
    /// (2016).
    Gelu,
    /// The tanh approximation of [`Gelu`](Self::Gelu), from the same paper.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
}

/// `out[i] = act(gate[i]) * up[i]`, or `act(gate[i])` when there is no `up`; one row or many.
/// Errors: the lengths differ.
pub fn gate(
    cpu: Cpu,
    kind: GateKind,
    gate: &[f32],
    up: Option<&[f32]>,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    if let Some(up) = up {
        shape::exactly("gate", "up values", gate.len(), up.len())?;
    }
    shape::exactly("gate", "output", gate.len(), out.len())?;
    if kind == GateKind::Gelu {
        // The error function has no vector form here; no model in sight uses it.
        reference::gate(kind, gate, up, out);
        return Ok(());
    }
    use cpu::gate as kernel;
    simd::dispatch!(cpu, kernel(
        kind: GateKind, gate: &[f32], up: Option<&[f32]>, out: &mut [f32],
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::CpuLevel;

    const KINDS: [GateKind; 5] =
        [GateKind::Silu, GateKind::Gelu, GateKind::GeluTanh, GateKind::Relu, GateKind::ReluSquared];

    proptest! {
        #[test]
        fn every_level_agrees_with_the_reference(
            values in proptest::collection::vec((-100f32..100.0, -3f32..3.0), 0..70),
        ) {
            let (x, up): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            let (mut expected, mut found) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            for level in [CpuLevel::Portable, CpuLevel::Avx2, CpuLevel::Avx512Vnni] {
                for (kind, up) in KINDS.into_iter().flat_map(|k| [(k, None), (k, Some(&up[..]))]) {
                    reference::gate(kind, &x, up, &mut expected);
                    gate(Cpu::at_most(level), kind, &x, up, &mut found).unwrap();
                    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        // An exponential is right to 2^-23 of itself times its argument's
                        // rounding (88 * 2^-24 at most where it matters), then three roundings.
                        // Below 1e-12 the reference itself cancels (1 + tanh).
                        let tolerance = expected.abs() * 1e-5 + 1e-12;
                        let near = (found - expected).abs() <= tolerance;
                        prop_assert!(near, "{kind:?} {level:?} {}: {found} {expected}", x[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn known_values() {
        let check = |kind, x: f32, expected: f32| {
            let mut out = [0.0];
            gate(Cpu::detect(), kind, &[x], Some(&[2.0]), &mut out).unwrap();
            assert!((out[0] - 2.0 * expected).abs() < 1e-6, "{kind:?} {x}: {}", out[0]);
        };
        check(GateKind::Silu, 1.0, 0.731_058_6);
        check(GateKind::Gelu, 1.0, 0.841_344_7);
        check(GateKind::GeluTanh, 1.0, 0.841_192);
        check(GateKind::Relu, -1.0, 0.0);
        check(GateKind::ReluSquared, 3.0, 9.0);
        assert!(gate(Cpu::detect(), GateKind::Silu, &[1.0], Some(&[]), &mut [0.0]).is_err());
        assert!(gate(Cpu::detect(), GateKind::Silu, &[1.0], None, &mut []).is_err());
    }
}
