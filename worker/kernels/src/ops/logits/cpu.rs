//! Logits in vectors: a vocabulary is read twice for its normaliser, once for its greatest.

use crate::simd::Lanes;

/// Vectors summed in f32 before the sum goes into an f64.
const RUN: usize = 16;

/// The greatest value that is not NaN; minus infinity when there is none.
///
/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn greatest<L: Lanes>(logits: &[f32]) -> f32 {
    let whole = logits.len() / L::COUNT * L::COUNT;
    // SAFETY: vectors end before `whole`.
    let most = unsafe {
        let mut most = L::splat(f32::NEG_INFINITY);
        for at in (0..whole).step_by(L::COUNT) {
            // The second operand stays where the first is NaN.
            most = L::max(L::load(logits.as_ptr().add(at)), most);
        }
        L::greatest(most)
    };
    logits[whole..].iter().copied().fold(most, f32::max)
}

/// `Σ e^(x - most)`.
///
/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn sum_exp<L: Lanes>(logits: &[f32], most: f32) -> f64 {
    let whole = logits.len() / L::COUNT * L::COUNT;
    let mut total = 0.0f64;
    for run in (0..whole).step_by(RUN * L::COUNT) {
        let end = whole.min(run + RUN * L::COUNT);
        // SAFETY: vectors end before `whole`.
        unsafe {
            let mut sum = L::splat(0.0);
            for at in (run..end).step_by(L::COUNT) {
                let below = L::sub(L::load(logits.as_ptr().add(at)), L::splat(most));
                sum = L::add(sum, L::exp(below));
            }
            total += f64::from(L::total(sum));
        }
    }
    total + logits[whole..].iter().map(|&x| f64::from((x - most).exp())).sum::<f64>()
}
