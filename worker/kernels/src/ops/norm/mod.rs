//! Norms over one row: RMS norm and layer norm.

mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::cpu::Cpu;
use crate::shape::{self, ShapeError};
use crate::simd;

/// `out[i] = x[i] * weight[i] / sqrt(mean(x²) + epsilon)` for one row. Errors: the lengths differ.
/// Source: Root Mean Square Layer Normalization (2019).
pub fn rms_norm(
    cpu: Cpu,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    check("rms norm", x, weight, out)?;
    with_offset(cpu, (x, weight), 0.0, epsilon, out);
    Ok(())
}

/// As [`rms_norm`] with `1 + weight[i]` for `weight[i]`, as Gemma stores it. Errors: the lengths
/// differ.
pub fn rms_norm_one_plus(
    cpu: Cpu,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    check("rms norm", x, weight, out)?;
    with_offset(cpu, (x, weight), 1.0, epsilon, out);
    Ok(())
}

/// `out[i] = (x[i] - mean(x)) / sqrt(variance(x) + epsilon) * weight[i] + bias[i]` for one row; no
/// bias is a bias of zero. Errors: the lengths differ. Source: Layer Normalization (2016).
pub fn layer_norm(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    check("layer norm", x, weight, out)?;
    if let Some(bias) = bias {
        shape::exactly("layer norm", "bias", x.len(), bias.len())?;
    }
    reference::layer_norm(x, weight, bias, epsilon, out);
    Ok(())
}

fn with_offset(
    cpu: Cpu,
    (x, weight): (&[f32], &[f32]),
    offset: f32,
    epsilon: f32,
    out: &mut [f32],
) {
    use cpu::rms_norm;
    simd::dispatch!(cpu, rms_norm(
        x: &[f32], weight: &[f32], offset: f32, epsilon: f32, out: &mut [f32],
    ));
}

fn check(op: &'static str, x: &[f32], weight: &[f32], out: &[f32]) -> Result<(), ShapeError> {
    shape::exactly(op, "weight", x.len(), weight.len())?;
    shape::exactly(op, "output", x.len(), out.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::CpuLevel;

    proptest! {
        #[test]
        fn every_level_agrees_with_the_reference(
            values in proptest::collection::vec((-9f32..9.0, -2f32..2.0), 1..200),
            epsilon in 1e-6f32..1e-3,
        ) {
            let (x, weight): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            let mut expected = vec![0.0; x.len()];
            let mut found = expected.clone();
            for level in [CpuLevel::Portable, CpuLevel::Avx2, CpuLevel::Avx512Vnni] {
                for offset in [0.0, 1.0] {
                    reference::rms_norm(&x, &weight, offset, epsilon, &mut expected);
                    with_offset(Cpu::at_most(level), (&x, &weight), offset, epsilon, &mut found);
                    for (found, expected) in found.iter().zip(&expected) {
                        // Positive terms: 200 / 16 additions in f32, halved by the root, and
                        // three roundings of the products.
                        let tolerance = expected.abs() * 12.0 * f32::EPSILON;
                        prop_assert!((found - expected).abs() <= tolerance, "{found} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn avx2_and_avx512_give_the_same_bits() {
        let x: Vec<f32> = (0..601).map(|i| (i as f32 * 0.37).sin()).collect();
        let of = |level| {
            let mut out = vec![0.0; x.len()];
            rms_norm(Cpu::at_most(level), &x, &x, 1e-5, &mut out).unwrap();
            out
        };
        assert_eq!(of(CpuLevel::Avx2), of(CpuLevel::Avx512Vnni));
    }

    #[test]
    fn layer_norm_centres_and_scales() {
        let mut out = [0.0; 4];
        let weight = [2.0; 4];
        layer_norm(&[1.0, 2.0, 3.0, 4.0], &weight, Some(&[10.0; 4]), 0.0, &mut out).unwrap();
        let expected = [-1.341_640_8, -0.447_213_6, 0.447_213_6, 1.341_640_8];
        for (out, expected) in out.iter().zip(expected) {
            assert!((out - (2.0 * expected + 10.0)).abs() < 1e-5, "{out}");
        }
        assert!(layer_norm(&[1.0; 4], &weight, Some(&[1.0; 3]), 0.0, &mut out).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = rms_norm(Cpu::detect(), &[1.0; 4], &[1.0; 3], 1e-5, &mut [0.0; 4]);
        assert_eq!(refused.unwrap_err().to_string(), "rms norm: weight must be 4, not 3");
        assert!(rms_norm_one_plus(Cpu::detect(), &[1.0], &[1.0], 1e-5, &mut [0.0; 2]).is_err());
    }
}
