//! The plain definitions.

#[cfg(test)]
pub(super) fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &x) in logits.iter().enumerate() {
        if !x.is_nan() && best.is_none_or(|(_, most)| x > most) {
            best = Some((i, x));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
pub(super) fn log_sum_exp(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() {
        return most;
    }
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(most)).exp()).sum();
    (f64::from(most) + sum.ln()) as f32
}

pub(super) fn softmax(logits: &[f32], normaliser: f32, out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(logits) {
        *out = (x - normaliser).exp();
    }
}

pub(super) fn softcap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * (*x / cap).tanh();
    }
}
