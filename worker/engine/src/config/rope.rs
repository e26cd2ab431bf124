//! Rotary positions of a layer: which values turn together, how fast, and how that is stretched for
//! long contexts.

use naru_kernels::RopePairs;

use super::ConfigReadError;

/// The rotation of one layer's queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which values of a head are turned together.
    pub pairs: RopePairs,
    /// Leading values of a head that are turned; even.
    pub rotary_dim: usize,
    /// The base of the frequencies.
    pub base: f32,
    /// How frequencies are changed for long contexts.
    pub scaling: RopeScaling,
}

/// How the frequencies of a rope are changed for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// They are not.
    None,
    /// All divided by `factor`. Source: Extending Context Window via Positional Interpolation
    /// (2023).
    Linear {
        /// Trained context times this is the new one.
        factor: f32,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// What low frequencies are divided by.
        factor: f32,
        /// Wavelengths above `original_context / low` are low.
        low_frequency_factor: f32,
        /// Wavelengths below `original_context / high` are high.
        high_frequency_factor: f32,
        /// The context before stretching, in tokens.
        original_context: f32,
    },
    /// As `Llama3` with a blend over dimensions, and cosines and sines scaled. Source: YaRN (2023).
    Yarn {
        /// What low frequencies are divided by.
        factor: f32,
        /// The context before stretching, in tokens.
        original_context: f32,
        /// Dimensions that turn more often than this over the original context are kept.
        beta_fast: f32,
        /// Dimensions that turn less often than this are divided.
        beta_slow: f32,
        /// What cosines and sines are multiplied with.
        attention_factor: f32,
    },
    /// Each frequency divided by its own factor, which a tensor of the file gives (GGUF's
    /// `rope_freqs.weight`).
    Factors(Vec<f32>),
}

impl Rope {
    /// Turns per token of each pair, in radians, `[rotary_dim / 2]`; computed in f64.
    pub fn frequencies(&self) -> Vec<f64> {
        let dim = self.rotary_dim as f64;
        let base = f64::from(self.base);
        let plain = (0..self.rotary_dim / 2).map(|i| base.powf(-2.0 * i as f64 / dim));
        match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / f64::from(*factor)).collect(),
            RopeScaling::Factors(factors) => {
                plain.zip(factors).map(|(f, factor)| f / f64::from(*factor)).collect()
            }
            &RopeScaling::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context,
            } => plain
                .map(|f| {
                    let turns = f64::from(original_context) * f / std::f64::consts::TAU;
                    let kept = (turns - f64::from(low)) / f64::from(high - low);
                    blend(f / f64::from(factor), f, kept)
                })
                .collect(),
            &RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                // The dimension whose pair turns `turns` times over the original context.
                let dimension = |turns: f32| {
                    let wavelength = f64::from(original_context) / f64::from(turns);
                    dim * (wavelength / std::f64::consts::TAU).ln() / (2.0 * base.ln())
                };
                let first = dimension(beta_fast).floor().max(0.0);
                let last = dimension(beta_slow).ceil().min(dim - 1.0);
                let width = (last - first).max(0.001);
                plain
                    .enumerate()
                    .map(|(i, f)| blend(f / f64::from(factor), f, 1.0 - (i as f64 - first) / width))
                    .collect()
            }
        }
    }

    /// Whether it fits heads of `head_dim` values. Errors: the first thing that does not.
    pub(super) fn check(&self, head_dim: usize) -> Result<(), ConfigReadError> {
        let wrong = |key: &str, found: String, expected| {
            Err(ConfigReadError::Value { key: key.to_owned(), found, expected })
        };
        let dim = self.rotary_dim;
        if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
            let expected = "an even number up to the head size is needed";
            return wrong("rotary dimensions", dim.to_string(), expected);
        }
        if !(self.base.is_finite() && self.base > 1.0) {
            return wrong("rope base", self.base.to_string(), "a number above 1 is needed");
        }
        if let RopeScaling::Factors(factors) = &self.scaling
            && factors.len() != dim / 2
        {
            let found = format!("{} values", factors.len());
            return wrong("rope factors", found, "one for each pair of dimensions is needed");
        }
        if self.frequencies().iter().all(|frequency| frequency.is_finite()) {
            return Ok(());
        }
        let found = format!("{:?}", self.scaling);
        wrong("rope scaling", found, "factors that give finite frequencies are needed")
    }

    /// What cosines and sines are multiplied with.
    pub fn amplitude(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }
}

/// What yarn multiplies cosines and sines with when a checkpoint does not say. Source: YaRN (2023),
/// equation 22.
pub(super) fn yarn_attention_factor(factor: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

/// From `none` at 0 to `all` at 1, constant outside.
fn blend(none: f64, all: f64, share: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    none * (1.0 - share) + all * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { pairs: RopePairs::Halves, rotary_dim: 64, base: 500_000.0, scaling }
    }

    #[test]
    fn stretched_ropes_keep_high_frequencies_and_divide_low_ones() {
        let plain = rope(RopeScaling::None).frequencies();
        let check = |scaling: RopeScaling, factor: f64| {
            let stretched = rope(scaling).frequencies();
            assert!((stretched[0] / plain[0] - 1.0).abs() < 1e-12);
            assert!((stretched[31] * factor / plain[31] - 1.0).abs() < 1e-9);
            assert!(stretched.windows(2).all(|pair| pair[1] < pair[0]), "{stretched:?}");
        };
        check(
            RopeScaling::Llama3 {
                factor: 8.0,
                low_frequency_factor: 1.0,
                high_frequency_factor: 4.0,
                original_context: 8192.0,
            },
            8.0,
        );
        check(
            RopeScaling::Yarn {
                factor: 4.0,
                original_context: 32_768.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 1.1386294,
            },
            4.0,
        );
    }

    #[test]
    fn linear_and_given_factors_divide() {
        let plain = rope(RopeScaling::None).frequencies();
        let linear = rope(RopeScaling::Linear { factor: 4.0 }).frequencies();
        let given = rope(RopeScaling::Factors(vec![4.0; 32])).frequencies();
        assert_eq!(linear, given);
        assert!(linear.iter().zip(&plain).all(|(a, b)| (a * 4.0 / b - 1.0).abs() < 1e-12));
    }
}
