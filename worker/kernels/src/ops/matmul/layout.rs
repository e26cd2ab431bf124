//! How packed weights lie in memory.
//!
//! A *panel* is 16 rows. A *unit* is 16 rows by 32 columns; a panel of a quantised format is
//!
//! ```text
//! 16 f32            power of two that undoes the row's exponent (1 but for K-quants)
//! units × [16] f16  scale of each row (two vectors where blocks are 16 columns wide),
//!                   then, where a format has one, its offset: w = scale · q + offset
//! (to a multiple of 64 bytes)
//! units × vectors   of 64 bytes: 16 rows by 4 columns, a row's columns next to each other
//! ```
//!
//! which is what one `vpdpbusd` wants: four columns of sixteen rows against four activations, one
//! output row to a lane, no sum across lanes ever. A unit has 8 such vectors of values. 4-bit
//! formats keep two in one (vector `2 i` in the low nibbles of stored vector `i`, `2 i + 1` in the
//! high ones); 5-bit ones add a vector whose bit `j` is the fifth bit of vector `j`; 6-bit ones two
//! vectors whose bit pair `j` holds the top bits of vector `j` of their half; 8-bit ones store
//! `q + 128`. F32, F16 and BF16 panels are `[columns][16]` in their own type.

use crate::dtype::DType;
use crate::simd::Lanes;

/// Rows of a panel.
pub(super) const PANEL_ROWS: usize = 16;
/// Columns of a unit, and of a scale of the activations.
pub(super) const UNIT_COLUMNS: usize = 32;
/// Bytes of one vector of weights.
pub(super) const VECTOR_BYTES: usize = 64;
/// Bytes of the powers of two at the head of a panel.
pub(super) const EXPONENT_BYTES: usize = PANEL_ROWS * size_of::<f32>();

/// A layout of weights in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PanelLayout {
    /// 4 bits, zero at 8.
    Nibbles,
    /// 4 bits and an offset.
    NibblesOffset,
    /// 5 bits, zero at 16.
    Fifths,
    /// 5 bits and an offset.
    FifthsOffset,
    /// 6 bits, zero at 32, scales of 16 columns.
    Sixths,
    /// 8 bits, zero at 128.
    Whole,
    /// Floats of the given type.
    Float(FloatKind),
}

/// A type of floats that are kept as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatKind {
    F32,
    F16,
    BF16,
}

impl FloatKind {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

impl PanelLayout {
    /// The layout that holds weights of `dtype`.
    pub(super) fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::Float(FloatKind::F32),
            DType::F16 => Self::Float(FloatKind::F16),
            DType::BF16 => Self::Float(FloatKind::BF16),
            DType::Q4_0 => Self::Nibbles,
            DType::Q4_1 | DType::Q4_K => Self::NibblesOffset,
            DType::Q5_0 => Self::Fifths,
            DType::Q5_1 | DType::Q5_K => Self::FifthsOffset,
            DType::Q6_K => Self::Sixths,
            DType::Q8_0 => Self::Whole,
        }
    }

    /// Bytes of scales and offsets of a unit.
    pub(super) fn scale_bytes(self) -> usize {
        match self {
            Self::Nibbles => Nibbles::SCALE_HALVES * 2,
            Self::NibblesOffset => NibblesOffset::SCALE_HALVES * 2,
            Self::Fifths => Fifths::SCALE_HALVES * 2,
            Self::FifthsOffset => FifthsOffset::SCALE_HALVES * 2,
            Self::Sixths => Sixths::SCALE_HALVES * 2,
            Self::Whole => Whole::SCALE_HALVES * 2,
            Self::Float(_) => 0,
        }
    }

    /// Bytes of values of a unit.
    pub(super) fn quant_bytes(self) -> usize {
        match self {
            Self::Nibbles | Self::NibblesOffset => Nibbles::QUANT_BYTES,
            Self::Fifths | Self::FifthsOffset => Fifths::QUANT_BYTES,
            Self::Sixths => Sixths::QUANT_BYTES,
            Self::Whole => Whole::QUANT_BYTES,
            Self::Float(_) => 0,
        }
    }

    /// Bytes of the scales of a panel of `columns`, with the gap after them.
    pub(super) fn scales_bytes(self, columns: usize) -> usize {
        (columns / UNIT_COLUMNS * self.scale_bytes()).next_multiple_of(VECTOR_BYTES)
    }

    /// Bytes of a panel of `columns`.
    pub(super) fn panel_bytes(self, columns: usize) -> usize {
        match self {
            Self::Float(kind) => {
                (columns * PANEL_ROWS * kind.bytes()).next_multiple_of(VECTOR_BYTES)
            }
            _ => {
                let quants = columns / UNIT_COLUMNS * self.quant_bytes();
                EXPONENT_BYTES + self.scales_bytes(columns) + quants
            }
        }
    }
}

/// A quantised layout as the kernels read it.
pub(super) trait Quantised {
    /// Bits of a value.
    const BITS: u32;
    /// The zero point is `1 << ZERO_SHIFT`; `None`: there is an offset instead.
    const ZERO_SHIFT: Option<u32>;
    /// Scales of a row in a unit.
    const GROUPS: usize = 1;
    /// Bytes of values of a unit.
    const QUANT_BYTES: usize;
    /// Half floats of a unit: scales, then the offset.
    const SCALE_HALVES: usize = PANEL_ROWS * (Self::GROUPS + Self::ZERO_SHIFT.is_none() as usize);

    /// Values of half `half` (0 or 1) of the columns of the unit at `quants`, as unsigned bytes.
    ///
    /// # Safety
    /// The instruction set of `L` is present; a unit of this layout, counted from a lane that
    /// leaves `L::COUNT` rows, is at `quants`.
    unsafe fn values<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4];
}

/// [`PanelLayout::Nibbles`].
pub(super) struct Nibbles;
/// [`PanelLayout::NibblesOffset`].
pub(super) struct NibblesOffset;
/// [`PanelLayout::Fifths`].
pub(super) struct Fifths;
/// [`PanelLayout::FifthsOffset`].
pub(super) struct FifthsOffset;
/// [`PanelLayout::Sixths`].
pub(super) struct Sixths;
/// [`PanelLayout::Whole`].
pub(super) struct Whole;

#[inline(always)]
unsafe fn nibbles<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4] {
    // SAFETY: stored vectors `2 half` and `2 half + 1` are in the unit.
    unsafe {
        let mask = L::splat_byte(0x0f);
        let first = L::load_bytes(quants.add(2 * half * VECTOR_BYTES));
        let second = L::load_bytes(quants.add((2 * half + 1) * VECTOR_BYTES));
        [
            L::and(first, mask),
            L::and(L::shift_right(first, 4), mask),
            L::and(second, mask),
            L::and(L::shift_right(second, 4), mask),
        ]
    }
}

#[inline(always)]
unsafe fn fifths<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4] {
    // SAFETY: the vector of fifth bits follows the four vectors of nibbles.
    unsafe {
        let mask = L::splat_byte(0x10);
        let bits = L::load_bytes(quants.add(4 * VECTOR_BYTES));
        let mut values = nibbles::<L>(quants, half);
        for (i, value) in values.iter_mut().enumerate() {
            let bit = 4 * half + i;
            let moved = if bit <= 4 {
                L::shift_left(bits, 4 - bit as u32)
            } else {
                L::shift_right(bits, bit as u32 - 4)
            };
            *value = L::or(*value, L::and(moved, mask));
        }
        values
    }
}

impl Quantised for Nibbles {
    const BITS: u32 = 4;
    const ZERO_SHIFT: Option<u32> = Some(3);
    const QUANT_BYTES: usize = 4 * VECTOR_BYTES;
    #[inline(always)]
    unsafe fn values<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4] {
        // SAFETY: the caller's.
        unsafe { nibbles::<L>(quants, half) }
    }
}

impl Quantised for NibblesOffset {
    const BITS: u32 = 4;
    const ZERO_SHIFT: Option<u32> = None;
    const QUANT_BYTES: usize = 4 * VECTOR_BYTES;
    #[inline(always)]
    unsafe fn values<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4] {
        // SAFETY: the caller's.
        unsafe { nibbles::<L>(quants, half) }
    }
}

impl Quantised for Fifths {
    const BITS: u32 = 5;
    const ZERO_SHIFT: Option<u32> = Some(4);
    const QUANT_BYTES: usize = 5 * VECTOR_BYTES;
    #[inline(always)]
    unsafe fn values<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4] {
        // SAFETY: the caller's.
        unsafe { fifths::<L>(quants, half) }
    }
}

impl Quantised for FifthsOffset {
    const BITS: u32 = 5;
    const ZERO_SHIFT: Option<u32> = None;
    const QUANT_BYTES: usize = 5 * VECTOR_BYTES;
    #[inline(always)]
    unsafe fn values<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4] {
        // SAFETY: the caller's.
        unsafe { fifths::<L>(quants, half) }
    }
}

impl Quantised for Sixths {
    const BITS: u32 = 6;
    const ZERO_SHIFT: Option<u32> = Some(5);
    const GROUPS: usize = 2;
    const QUANT_BYTES: usize = 6 * VECTOR_BYTES;
    #[inline(always)]
    unsafe fn values<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4] {
        // SAFETY: the vector of top bits of this half follows the four vectors of nibbles.
        unsafe {
            let mask = L::splat_byte(0x30);
            let bits = L::load_bytes(quants.add((4 + half) * VECTOR_BYTES));
            let mut values = nibbles::<L>(quants, half);
            for (i, value) in values.iter_mut().enumerate() {
                let moved = match i {
                    0 => L::shift_left(bits, 4),
                    1 => L::shift_left(bits, 2),
                    2 => bits,
                    _ => L::shift_right(bits, 2),
                };
                *value = L::or(*value, L::and(moved, mask));
            }
            values
        }
    }
}

impl Quantised for Whole {
    const BITS: u32 = 8;
    const ZERO_SHIFT: Option<u32> = Some(7);
    const QUANT_BYTES: usize = 8 * VECTOR_BYTES;
    #[inline(always)]
    unsafe fn values<L: Lanes>(quants: *const u8, half: usize) -> [L::Bytes; 4] {
        // SAFETY: the unit has eight vectors.
        unsafe {
            let quants = quants.add(4 * half * VECTOR_BYTES);
            [
                L::load_bytes(quants),
                L::load_bytes(quants.add(VECTOR_BYTES)),
                L::load_bytes(quants.add(2 * VECTOR_BYTES)),
                L::load_bytes(quants.add(3 * VECTOR_BYTES)),
            ]
        }
    }
}
