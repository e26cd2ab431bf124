//! The number formats of weights that are computed on.

/// A format of weights as files hold them, row-major. Source: the GGUF specification and
/// `ggml-common.h`.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// 32 values: f16 scale, 16 bytes of nibbles; `d * (q - 8)`.
    Q4_0,
    /// 32 values: f16 scale, f16 minimum, nibbles; `d * q + m`.
    Q4_1,
    /// 32 values: f16 scale, 4 bytes of fifth bits, nibbles; `d * (q - 16)`.
    Q5_0,
    /// 32 values: f16 scale, f16 minimum, fifth bits, nibbles; `d * q + m`.
    Q5_1,
    /// 32 values: f16 scale, 32 signed bytes; `d * q`.
    Q8_0,
    /// 256 values in 8 sub-blocks with 6-bit scales and minima; 4 bits each.
    Q4_K,
    /// 256 values in 8 sub-blocks with 6-bit scales and minima; 5 bits each.
    Q5_K,
    /// 256 values in 16 sub-blocks with 8-bit scales; 6 bits each, `d * sc * (q - 32)`.
    Q6_K,
}

impl DType {
    /// Every format, for tests and tables.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Values in one block; a row holds whole blocks.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a row of `columns` values; `None` when they are not whole blocks or do not fit in
    /// memory.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_elements()) {
            return None;
        }
        (columns / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The format's name as GGUF tools write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }
}
