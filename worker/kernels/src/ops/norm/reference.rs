//! Plain norms; sums in f64 so that they are the truth to compare with.

/// RMS norm with weights `offset + weight[i]`.
#[cfg(test)]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], offset: f32, epsilon: f32, out: &mut [f32]) {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let mean = squares / x.len().max(1) as f64;
    let scale = (1.0 / (mean + f64::from(epsilon)).sqrt()) as f32;
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * (offset + weight);
    }
}

/// Layer norm; see the op.
pub(super) fn layer_norm(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) {
    let length = x.len().max(1) as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / length;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / length;
    let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
    for (i, out) in out.iter_mut().enumerate() {
        let normal = ((f64::from(x[i]) - mean) * scale) as f32;
        *out = normal * weight[i] + bias.map_or(0.0, |bias| bias[i]);
    }
}
