//! Whole-row arithmetic, written so that the compiler can use vector registers: fixed lanes, no
//! branches inside a block. The order of additions is fixed, so results are the same everywhere.

const LANES: usize = 16;
/// Logits whose weights are summed before the sum goes to double precision.
pub(super) const BLOCK: usize = 1024;
/// Below this, eˣ is taken as 0: all of a vocabulary at it weighs less than rounding.
const EXP_MIN: f32 = -87.0;

/// The largest logit; -∞ if there is none above (NaN never is).
pub(super) fn max(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let larger = |best: f32, &logit: &f32| if logit > best { logit } else { best };
    rest.iter().fold(lanes.iter().fold(f32::NEG_INFINITY, larger), larger)
}

/// What turns a logit into a weight: e^((logit - max) · scale), at most 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weigh {
    pub(super) max: f32,
    /// 1 / temperature.
    pub(super) scale: f32,
    /// Logits below it weigh nothing.
    pub(super) floor: f32,
}

impl Weigh {
    pub(super) fn weight(self, logit: f32) -> f32 {
        let weight = exp((logit - self.max) * self.scale);
        if logit >= self.floor { weight } else { 0.0 }
    }

    /// How far a logit is below the largest, in the unit of the exponent.
    pub(super) fn distance(self, logit: f32) -> f32 {
        (self.max - logit) * self.scale
    }

    /// The sum of the weights of at most `BLOCK` logits.
    pub(super) fn block_mass(self, block: &[f32]) -> f64 {
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &logit) in lanes.iter_mut().zip(chunk) {
                *lane += self.weight(logit);
            }
        }
        let rest: f64 = rest.iter().map(|&logit| f64::from(self.weight(logit))).sum();
        lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + rest
    }

    /// The sum of all weights.
    pub(super) fn mass(self, logits: &[f32]) -> f64 {
        logits.chunks(BLOCK).map(|block| self.block_mass(block)).sum()
    }
}

/// eˣ for x ≤ 0 to 2 units in the last place; exactly 1 at 0; 0 below `EXP_MIN` and for NaN.
/// x = n·ln 2 + r with |r| ≤ ½ ln 2; eʳ by its Taylor series to r⁷ (error < 1e-8), 2ⁿ by adding n
/// to the exponent.
fn exp(x: f32) -> f32 {
    /// Adding it leaves round(x) in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts: the product of the first with a small integer is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let series = 1.0 / 5040.0;
    let series = series * r + 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r + 1.0;
    let series = series * r + 1.0;
    let scaled = f32::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x >= EXP_MIN { scaled } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_library() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NAN), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "e^{x} is off by {error}");
        }
    }

    #[test]
    fn max_and_mass_agree_with_plain_loops_at_every_length() {
        for length in 0..70 {
            let logits: Vec<f32> = (0..length).map(|i| ((i * 37) % 23) as f32 / 3.0).collect();
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&logits), largest);
            let plain: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
            let weigh = Weigh { max: largest, scale: 1.0, floor: f32::NEG_INFINITY };
            assert!((weigh.mass(&logits) - plain).abs() <= plain * 1e-6);
        }
        assert_eq!(max(&[f32::NAN, -1.0, f32::NAN]), -1.0);
    }
}
