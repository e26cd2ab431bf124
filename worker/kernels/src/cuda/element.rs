//! What activations are on a device.

/// The number format of activations, keys and values; sums are of 32-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Element {
    /// The upper half of 32-bit floats: no overflow, 8 bits of precision.
    #[default]
    Bf16,
    /// IEEE half floats: up to 65504, 11 bits of precision.
    F16,
}

impl Element {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bf16, Self::F16];

    /// Bytes of a value.
    pub const BYTES: usize = 2;

    /// The word for it.
    pub fn name(self) -> &'static str {
        self.pick("bf16", "f16")
    }

    /// The relative error of rounding to it.
    pub fn epsilon(self) -> f64 {
        match self {
            Self::Bf16 => 2f64.powi(-8),
            Self::F16 => 2f64.powi(-11),
        }
    }

    /// The one of two that is for it.
    pub(crate) fn pick<T>(self, bf16: T, f16: T) -> T {
        match self {
            Self::Bf16 => bf16,
            Self::F16 => f16,
        }
    }
}
