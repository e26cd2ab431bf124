//! Norms over one row: RMS norm and layer norm.

mod reference;

use crate::cpu::Cpu;
use crate::shape::{self, ShapeError};

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
    let _ = cpu;
    reference::rms_norm(x, weight, 0.0, epsilon, out);
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
    let _ = cpu;
    reference::rms_norm(x, weight, 1.0, epsilon, out);
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

fn check(op: &'static str, x: &[f32], weight: &[f32], out: &[f32]) -> Result<(), ShapeError> {
    shape::exactly(op, "weight", x.len(), weight.len())?;
    shape::exactly(op, "output", x.len(), out.len())
}
