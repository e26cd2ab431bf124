//! What a sampler asks of a row of logits.

use crate::shape::{self, ShapeError};

/// The index of the greatest value, the first of equals; NaN never wins. `None` for an empty or
/// all-NaN row.
pub fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &x) in logits.iter().enumerate() {
        if !x.is_nan() && best.is_none_or(|(_, most)| x > most) {
            best = Some((i, x));
        }
    }
    best.map(|(i, _)| i)
}

/// `ln Σ e^x`, the normaliser that turns logits into log-probabilities; summed in f64 from the
/// maximum. Minus infinity for an empty row.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() {
        return most;
    }
    let sum: f64 = logits.iter().map(|&x| f64::from((x - most).exp())).sum();
    (f64::from(most) + sum.ln()) as f32
}

/// `out[i] = e^(x[i] - lse)`: probabilities that sum to one. Errors: the lengths differ.
pub fn softmax(logits: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    shape::exactly("softmax", "output", logits.len(), out.len())?;
    let normaliser = log_sum_exp(logits);
    for (out, x) in out.iter_mut().zip(logits) {
        *out = (x - normaliser).exp();
    }
    Ok(())
}

/// `x[i] = cap * tanh(x[i] / cap)`: values stay inside `±cap` (Gemma 2).
pub fn softcap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * (*x / cap).tanh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_greatest_is_the_argmax() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(argmax(&[f32::NAN, -1.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 2]), Some(0));
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn probabilities_sum_to_one_even_of_great_logits() {
        let logits = [1000.0, 1001.0, 999.0];
        let mut out = [0.0; 3];
        softmax(&logits, &mut out).unwrap();
        // Three roundings of values of at most one, and the rounding of an lse near 1001 (2^-14
        // wide at that size).
        assert!((out.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        assert!((log_sum_exp(&[0.0; 4]) - 4f32.ln()).abs() < 1e-6);
        assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn soft_caps_hold() {
        let mut x = [1e9, -1e9, 0.5];
        softcap(&mut x, 30.0);
        assert_eq!(&x[..2], &[30.0, -30.0]);
        assert!((x[2] - 0.5).abs() < 1e-4);
    }
}
