//! Norms in vectors. Sums are kept in sixteen lanes whatever the vector's length, so that AVX2 and
//! AVX-512 give the same bits.

use crate::simd::Lanes;

/// Lanes that a sum is kept in.
const LANES: usize = 16;

/// See the reference.
///
/// # Safety
/// The instruction set of `L` is present; the slices are equally long.
#[inline(always)]
pub(super) unsafe fn rms_norm<L: Lanes>(
    x: &[f32],
    weight: &[f32],
    offset: f32,
    epsilon: f32,
    out: &mut [f32],
) {
    let whole = x.len() / LANES * LANES;
    // SAFETY: vectors end before `whole`, inside all slices.
    unsafe {
        let mut sums = [L::splat(0.0); 2];
        for at in (0..whole).step_by(LANES) {
            for (part, sum) in sums.iter_mut().enumerate().take(LANES / L::COUNT) {
                let x = L::load(x.as_ptr().add(at + part * L::COUNT));
                *sum = L::fma(x, x, *sum);
            }
        }
        let mut lanes = [0.0f32; 2 * LANES];
        for (part, &sum) in sums.iter().enumerate() {
            L::store(lanes.as_mut_ptr().add(part * L::COUNT), sum);
        }
        for (lane, x) in lanes.iter_mut().zip(&x[whole..]) {
            *lane += x * x;
        }
        let total: f64 = lanes[..LANES].iter().map(|&lane| f64::from(lane)).sum();
        let mean = total / x.len().max(1) as f64;
        let scale = (1.0 / (mean + f64::from(epsilon)).sqrt()) as f32;
        for at in (0..whole).step_by(L::COUNT) {
            let weight = L::add(L::splat(offset), L::load(weight.as_ptr().add(at)));
            let x = L::mul(L::load(x.as_ptr().add(at)), L::splat(scale));
            L::store(out.as_mut_ptr().add(at), L::mul(x, weight));
        }
        for at in whole..x.len() {
            out[at] = x[at] * scale * (offset + weight[at]);
        }
    }
}
