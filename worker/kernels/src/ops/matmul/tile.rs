//! The kernels: one panel of weights against a few tokens.
//!
//! Quantised weights: `vpdpbusd` bound. A unit (16 rows by 32 columns) costs a token 8 of them and
//! 3 to 4 float operations; unpacking, 8 to 28 operations, is shared by the tokens of the tile.
//! One token is bound by reading the weights. Each token's floats are combined in the same order
//! whatever the tile.

use std::ops::Range;

use super::activations::QuantisedRows;
use super::layout::{EXPONENT_BYTES, PANEL_ROWS, Quantised, UNIT_COLUMNS};
use super::output::{Sums, TileOut, write};
use super::packed::Stretches;
use crate::simd::Lanes;

/// Multiplies the panel of layout `Q` and `units` units at `panel` with the `T` first tokens of
/// `x`; `stretches` are of units.
///
/// # Safety
/// The instruction set of `L` is present; such a panel is at `panel`; `x` has `T` tokens of `units`
/// units; the places of `out` exist and nobody else uses them.
#[inline(always)]
pub(super) unsafe fn quantised<L: Lanes, Q: Quantised, const T: usize>(
    panel: *const u8,
    units: usize,
    stretches: Stretches,
    x: &QuantisedRows<'_>,
    out: TileOut,
) {
    // SAFETY: lanes first..first + COUNT are inside the panel's 16 rows.
    unsafe {
        let scales = panel.add(EXPONENT_BYTES).cast::<u16>();
        let scale_bytes = (units * Q::SCALE_HALVES * 2).next_multiple_of(64);
        let quants = panel.add(EXPONENT_BYTES + scale_bytes);
        for first in (0..PANEL_ROWS).step_by(L::COUNT) {
            let (scales, quants) = (scales.add(first), quants.add(first * 4));
            let undo = L::load(panel.cast::<f32>().add(first));
            if units <= stretches.first() && !out.first.is_wide() {
                let all = 0..units;
                let totals = quantised_lanes::<L, Q, T>(scales, quants, undo, all, units, x);
                write::<L, T>(totals, first, out);
                continue;
            }
            let (mut sums, mut start, mut end) = (Sums::<T>::ZERO, 0, stretches.first());
            while start < units {
                let part = start..end.min(units);
                sums.add::<L>(quantised_lanes::<L, Q, T>(scales, quants, undo, part, units, x));
                (start, end) = (end, end.saturating_add(stretches.columns));
            }
            sums.write::<L>(first, out);
        }
    }
}

#[inline(always)]
unsafe fn quantised_lanes<L: Lanes, Q: Quantised, const T: usize>(
    scales: *const u16,
    quants: *const u8,
    undo: L::Floats,
    part: Range<usize>,
    units: usize,
    x: &QuantisedRows<'_>,
) -> [L::Floats; T] {
    // SAFETY: all places are inside the panel and the tokens, by the contract of `quantised`.
    unsafe {
        let mut totals = [L::splat(0.0); T];
        for unit in part {
            let quants = quants.add(unit * Q::QUANT_BYTES);
            let scales = scales.add(unit * Q::SCALE_HALVES);
            let mut ints = [L::splat_int(0); T];
            for half in 0..2 {
                if half == 0 || Q::GROUPS == 2 {
                    for (t, ints) in ints.iter_mut().enumerate() {
                        *ints = start::<L, Q>(x, t * units + unit, half);
                    }
                }
                let values = Q::values::<L>(quants, half);
                for (t, ints) in ints.iter_mut().enumerate() {
                    let column = (t * units + unit) * UNIT_COLUMNS + 16 * half;
                    let activations = x.bytes.as_ptr().add(column);
                    *ints = L::dot4(*ints, values, activations, Q::BITS);
                }
                if half == 1 || Q::GROUPS == 2 {
                    let group = if Q::GROUPS == 2 { half } else { 0 };
                    let scale = L::load_f16(scales.add(group * PANEL_ROWS));
                    for (t, total) in totals.iter_mut().enumerate() {
                        let factor = L::splat(*x.scales.as_ptr().add(t * units + unit));
                        let scale = L::mul(scale, factor);
                        *total = L::fma(L::to_floats(ints[t]), scale, *total);
                    }
                }
            }
            if Q::ZERO_SHIFT.is_none() {
                let offset = L::load_f16(scales.add(PANEL_ROWS));
                for (t, total) in totals.iter_mut().enumerate() {
                    let sum = L::splat(*x.scaled_sums.as_ptr().add(t * units + unit));
                    *total = L::fma(offset, sum, *total);
                }
            }
        }
        for total in &mut totals {
            *total = L::mul(*total, undo);
        }
        totals
    }
}

/// What a sum of products starts from, so that the zero point of the weights is taken off.
#[inline(always)]
unsafe fn start<L: Lanes, Q: Quantised>(
    x: &QuantisedRows<'_>,
    unit: usize,
    half: usize,
) -> L::Ints {
    // SAFETY: the unit is one of the tile's tokens'.
    unsafe {
        match Q::ZERO_SHIFT {
            None => L::splat_int(0),
            Some(_) if Q::BITS == 8 && L::SIGNED_BYTES => L::splat_int(0),
            Some(shift) if Q::GROUPS == 2 => {
                L::splat_int(*x.negative_half_sums.as_ptr().add(2 * unit + half) << shift)
            }
            Some(shift) => L::splat_int(*x.negative_sums.as_ptr().add(unit) << shift),
        }
    }
}

/// Floats of a type that a panel can hold.
pub(super) trait FloatWeight {
    /// Reads `L::COUNT` of them, the first `index` values after `from`.
    ///
    /// # Safety
    /// The instruction set is present and the values are there.
    unsafe fn load<L: Lanes>(from: *const u8, index: usize) -> L::Floats;
}

/// 32-bit floats.
pub(super) struct Single;
/// Half floats.
pub(super) struct Half;
/// Bfloats.
pub(super) struct Brain;

impl FloatWeight for Single {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8, index: usize) -> L::Floats {
        // SAFETY: the caller's.
        unsafe { L::load(from.cast::<f32>().add(index)) }
    }
}

impl FloatWeight for Half {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8, index: usize) -> L::Floats {
        // SAFETY: the caller's.
        unsafe { L::load_f16(from.cast::<u16>().add(index)) }
    }
}

impl FloatWeight for Brain {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8, index: usize) -> L::Floats {
        // SAFETY: the caller's.
        unsafe { L::load_bf16(from.cast::<u16>().add(index)) }
    }
}

/// Chains of sums per row, so that one sum need not wait for the one before.
const CHAINS: usize = 4;

/// Multiplies the panel of floats `[columns][16]` at `panel` with `T` tokens of `columns` floats
/// at `x`.
///
/// # Safety
/// As [`quantised`].
#[inline(always)]
pub(super) unsafe fn floats<L: Lanes, W: FloatWeight, const T: usize>(
    panel: *const u8,
    columns: usize,
    stretches: Stretches,
    x: *const f32,
    out: TileOut,
) {
    // SAFETY: lanes first..first + COUNT are inside the panel's 16 rows, columns inside the tokens.
    unsafe {
        for first in (0..PANEL_ROWS).step_by(L::COUNT) {
            if columns <= stretches.first() && !out.first.is_wide() {
                let totals = float_lanes::<L, W, T>(panel, first, 0..columns, columns, x);
                write::<L, T>(totals, first, out);
                continue;
            }
            let (mut sums, mut start, mut end) = (Sums::<T>::ZERO, 0, stretches.first());
            while start < columns {
                let part = start..end.min(columns);
                sums.add::<L>(float_lanes::<L, W, T>(panel, first, part, columns, x));
                (start, end) = (end, end.saturating_add(stretches.columns));
            }
            sums.write::<L>(first, out);
        }
    }
}

#[inline(always)]
unsafe fn float_lanes<L: Lanes, W: FloatWeight, const T: usize>(
    panel: *const u8,
    first: usize,
    part: Range<usize>,
    columns: usize,
    x: *const f32,
) -> [L::Floats; T] {
    // SAFETY: all places are inside the panel and the tokens, by the contract of `floats`.
    unsafe {
        let mut sums = [[L::splat(0.0); CHAINS]; T];
        let whole = part.start + part.len() / CHAINS * CHAINS;
        for column in (part.start..whole).step_by(CHAINS) {
            for chain in 0..CHAINS {
                let weight = W::load::<L>(panel, (column + chain) * PANEL_ROWS + first);
                for (t, sums) in sums.iter_mut().enumerate() {
                    let left = L::splat(*x.add(t * columns + column + chain));
                    sums[chain] = L::fma(weight, left, sums[chain]);
                }
            }
        }
        for column in whole..part.end {
            let weight = W::load::<L>(panel, column * PANEL_ROWS + first);
            for (t, sums) in sums.iter_mut().enumerate() {
                let left = L::splat(*x.add(t * columns + column));
                sums[0] = L::fma(weight, left, sums[0]);
            }
        }
        let mut totals = [L::splat(0.0); T];
        for (total, s) in totals.iter_mut().zip(sums) {
            *total = L::add(L::add(s[0], s[1]), L::add(s[2], s[3]));
        }
        totals
    }
}
