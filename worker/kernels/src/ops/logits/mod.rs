//! What a sampler asks of a row of logits.

mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::cpu::Cpu;
use crate::shape::{self, ShapeError};
use crate::simd;

/// The index of the greatest value, the first of equals; NaN never wins. `None` for an empty or
/// all-NaN row.
pub fn argmax(logits: &[f32]) -> Option<usize> {
    let most = greatest(logits);
    logits.iter().position(|&x| x == most)
}

/// `ln Σ e^x`, the normaliser that turns logits into log-probabilities. Minus infinity for an empty
/// row.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let most = greatest(logits);
    if !most.is_finite() {
        return most;
    }
    (f64::from(most) + sum_exp(logits, most).ln()) as f32
}

/// `out[i] = e^(x[i] - lse)`: probabilities that sum to one. Errors: the lengths differ.
pub fn softmax(logits: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    shape::exactly("softmax", "output", logits.len(), out.len())?;
    reference::softmax(logits, log_sum_exp(logits), out);
    Ok(())
}

/// `x[i] = cap * tanh(x[i] / cap)`: values stay inside `±cap` (Gemma 2).
pub fn softcap(x: &mut [f32], cap: f32) {
    reference::softcap(x, cap);
}

/// The greatest value that is not NaN; minus infinity when there is none.
fn greatest(logits: &[f32]) -> f32 {
    use cpu::greatest as kernel;
    simd::dispatch!(Cpu::detect(), kernel(logits: &[f32]) -> f32)
}

/// `Σ e^(x - most)`.
fn sum_exp(logits: &[f32], most: f32) -> f64 {
    use cpu::sum_exp as kernel;
    simd::dispatch!(Cpu::detect(), kernel(logits: &[f32], most: f32) -> f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn vectors_agree_with_the_reference(
            logits in proptest::collection::vec(-40f32..40.0, 0..2000),
        ) {
            prop_assert_eq!(argmax(&logits), reference::argmax(&logits));
            let (found, expected) = (log_sum_exp(&logits), reference::log_sum_exp(&logits));
            // Terms are right to 2^-23, runs of 16 additions are in f32; the result is rounded.
            let near = (found - expected).abs() <= 4e-6 + expected.abs() * f32::EPSILON;
            prop_assert!(near || found == expected, "{} {}", found, expected);
        }
    }

    #[test]
    fn the_first_of_the_greatest_is_the_argmax() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(argmax(&[f32::NAN, -1.0]), Some(1));
        let mut long = vec![f32::NAN; 100];
        assert_eq!(argmax(&long), None);
        long[70] = -5.0;
        long[3] = f32::NEG_INFINITY;
        assert_eq!(argmax(&long), Some(70));
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
        assert!((log_sum_exp(&[f32::NEG_INFINITY, 2.0]) - 2.0).abs() < 1e-6);
        assert!(softmax(&logits, &mut [0.0; 2]).is_err());
    }

    #[test]
    fn soft_caps_hold() {
        let mut x = [1e9, -1e9, 0.5];
        softcap(&mut x, 30.0);
        assert_eq!(&x[..2], &[30.0, -30.0]);
        assert!((x[2] - 0.5).abs() < 1e-4);
    }
}
