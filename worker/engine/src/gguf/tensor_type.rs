//! The tensor formats that a GGUF file can name.

use naru_kernels::DType;

/// A tensor format by its number in the file. All of ggml's are listed; those with a [`DType`] are
/// computed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorType(&'static Row);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Row {
    id: u32,
    name: &'static str,
    block_elements: u64,
    block_bytes: u64,
    dtype: Option<DType>,
}

const fn known(id: u32, name: &'static str, elements: u64, bytes: u64, dtype: DType) -> Row {
    Row { id, name, block_elements: elements, block_bytes: bytes, dtype: Some(dtype) }
}

const fn listed(id: u32, name: &'static str, elements: u64, bytes: u64) -> Row {
    Row { id, name, block_elements: elements, block_bytes: bytes, dtype: None }
}

/// Source: `enum ggml_type` and the block structures of ggml. Numbers 4, 5, 31 to 33 and 36 to 38
/// were withdrawn.
static ROWS: [Row; 34] = [
    known(0, "F32", 1, 4, DType::F32),
    known(1, "F16", 1, 2, DType::F16),
    known(2, "Q4_0", 32, 18, DType::Q4_0),
    known(3, "Q4_1", 32, 20, DType::Q4_1),
    known(6, "Q5_0", 32, 22, DType::Q5_0),
    known(7, "Q5_1", 32, 24, DType::Q5_1),
    known(8, "Q8_0", 32, 34, DType::Q8_0),
    listed(9, "Q8_1", 32, 36),
    listed(10, "Q2_K", 256, 84),
    listed(11, "Q3_K", 256, 110),
    known(12, "Q4_K", 256, 144, DType::Q4_K),
    known(13, "Q5_K", 256, 176, DType::Q5_K),
    known(14, "Q6_K", 256, 210, DType::Q6_K),
    listed(15, "Q8_K", 256, 292),
    listed(16, "IQ2_XXS", 256, 66),
    listed(17, "IQ2_XS", 256, 74),
    listed(18, "IQ3_XXS", 256, 98),
    listed(19, "IQ1_S", 256, 50),
    listed(20, "IQ4_NL", 32, 18),
    listed(21, "IQ3_S", 256, 110),
    listed(22, "IQ2_S", 256, 82),
    listed(23, "IQ4_XS", 256, 136),
    listed(24, "I8", 1, 1),
    listed(25, "I16", 1, 2),
    listed(26, "I32", 1, 4),
    listed(27, "I64", 1, 8),
    listed(28, "F64", 1, 8),
    listed(29, "IQ1_M", 256, 56),
    known(30, "BF16", 1, 2, DType::BF16),
    listed(34, "TQ1_0", 256, 54),
    listed(35, "TQ2_0", 256, 66),
    listed(39, "MXFP4", 32, 17),
    listed(40, "NVFP4", 64, 36),
    listed(41, "Q1_0", 128, 18),
];

impl TensorType {
    /// The format with this number; `None` for an unknown or withdrawn one.
    pub fn from_id(id: u32) -> Option<Self> {
        ROWS.iter().find(|row| row.id == id).map(Self)
    }

    /// Every format, for tables and tests.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(Self)
    }

    /// The number in the file.
    pub fn id(self) -> u32 {
        self.0.id
    }

    /// The name as GGUF tools write it.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Values in one block; a row holds whole blocks.
    pub fn block_elements(self) -> u64 {
        self.0.block_elements
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> u64 {
        self.0.block_bytes
    }

    /// The format as the kernels know it; `None`: named, not computed on.
    pub fn dtype(self) -> Option<DType> {
        self.0.dtype
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_kernels() {
        for format in TensorType::all() {
            let Some(dtype) = format.dtype() else { continue };
            assert_eq!(format.name(), dtype.name());
            assert_eq!(format.block_elements(), dtype.block_elements() as u64, "{format:?}");
            assert_eq!(format.block_bytes(), dtype.block_bytes() as u64, "{format:?}");
        }
        for dtype in DType::ALL {
            assert!(TensorType::all().any(|format| format.dtype() == Some(dtype)), "{dtype:?}");
        }
    }

    #[test]
    fn numbers_are_unique_and_withdrawn_ones_are_unknown() {
        let mut ids: Vec<u32> = TensorType::all().map(TensorType::id).collect();
        ids.dedup();
        assert_eq!(ids.len(), ROWS.len());
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 42, u32::MAX] {
            assert_eq!(TensorType::from_id(id), None);
        }
    }
}
