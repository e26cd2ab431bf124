//! The left side of a matmul: hidden states and their int8 form, made once and shared by every
//! matmul that reads them.

use super::layout::UNIT_COLUMNS;
use crate::pool::{ComputePool, SharedSlice};
use crate::shape::{self, ShapeError};
use crate::simd::{self, Lanes};

/// Hidden states `[tokens, columns]` as floats and as signed bytes with a scale per 32 columns
/// (greatest magnitude / 127, rounded to nearest). Buffers are kept between steps, so one value
/// serves one place in the decoder for ever.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    columns: usize,
    values: Vec<f32>,
    bytes: Vec<i8>,
    scales: Vec<f32>,
    scaled_sums: Vec<f32>,
    negative_sums: Vec<i32>,
    negative_half_sums: Vec<i32>,
}

/// The int8 form of one token, or of the tokens from one on.
#[derive(Clone, Copy)]
pub(super) struct QuantisedRows<'a> {
    /// `[tokens, units * 32]` bytes in -127..=127.
    pub(super) bytes: &'a [i8],
    /// `[tokens, units]`: what a byte is multiplied with.
    pub(super) scales: &'a [f32],
    /// `[tokens, units]`: the scale times the sum of a unit's bytes.
    pub(super) scaled_sums: &'a [f32],
    /// `[tokens, units]`: minus the sum of a unit's bytes.
    pub(super) negative_sums: &'a [i32],
    /// `[tokens, 2 * units]`: minus the sums of its two halves.
    pub(super) negative_half_sums: &'a [i32],
}

impl Activations {
    /// No tokens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for `tokens` rows and calls `row` once with each token's index and row of
    /// `columns` values to write (it holds stale numbers before), then quantises the row, tokens in
    /// parallel.
    pub fn fill(
        &mut self,
        pool: &ComputePool,
        tokens: usize,
        columns: usize,
        row: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let units = columns.div_ceil(UNIT_COLUMNS);
        self.resize(tokens, columns, units);
        let values = SharedSlice::new(&mut self.values);
        let bytes = SharedSlice::new(&mut self.bytes);
        let scales = SharedSlice::new(&mut self.scales);
        let scaled_sums = SharedSlice::new(&mut self.scaled_sums);
        let negative_sums = SharedSlice::new(&mut self.negative_sums);
        let half_sums = SharedSlice::new(&mut self.negative_half_sums);
        pool.run_each(tokens, &|token| {
            // SAFETY: a token's ranges are its own, and the run ends before the borrows do.
            let (values, mut quantised) = unsafe {
                let quantised = QuantisedRow {
                    bytes: bytes.range(token * units * UNIT_COLUMNS, units * UNIT_COLUMNS),
                    scales: scales.range(token * units, units),
                    scaled_sums: scaled_sums.range(token * units, units),
                    negative_sums: negative_sums.range(token * units, units),
                    negative_half_sums: half_sums.range(token * 2 * units, 2 * units),
                };
                (values.range(token * columns, columns), quantised)
            };
            row(token, values);
            let (values, quantised) = (&*values, &mut quantised);
            simd::dispatch!(
                pool.cpu(),
                quantise(values: &[f32], quantised: &mut QuantisedRow<'_>)
            );
        });
    }

    /// As [`fill`](Self::fill) with the rows of `values`. Errors: `values` is not whole rows of
    /// `columns`.
    pub fn copy_from(
        &mut self,
        pool: &ComputePool,
        columns: usize,
        values: &[f32],
    ) -> Result<(), ShapeError> {
        shape::multiple("activations", "values", columns, values.len())?;
        self.fill(pool, values.len() / columns, columns, &|token, row| {
            row.copy_from_slice(&values[token * columns..][..columns]);
        });
        Ok(())
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The floats `[tokens, columns]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Scales of one token.
    pub(super) fn units(&self) -> usize {
        self.columns.div_ceil(UNIT_COLUMNS)
    }

    /// The int8 form from `token` on.
    pub(super) fn quantised_from(&self, token: usize) -> QuantisedRows<'_> {
        let units = self.units();
        QuantisedRows {
            bytes: &self.bytes[token * units * UNIT_COLUMNS..],
            scales: &self.scales[token * units..],
            scaled_sums: &self.scaled_sums[token * units..],
            negative_sums: &self.negative_sums[token * units..],
            negative_half_sums: &self.negative_half_sums[token * 2 * units..],
        }
    }

    fn resize(&mut self, tokens: usize, columns: usize, units: usize) {
        self.tokens = tokens;
        self.columns = columns;
        self.values.resize(tokens * columns, 0.0);
        self.bytes.resize(tokens * units * UNIT_COLUMNS, 0);
        self.scales.resize(tokens * units, 0.0);
        self.scaled_sums.resize(tokens * units, 0.0);
        self.negative_sums.resize(tokens * units, 0);
        self.negative_half_sums.resize(tokens * 2 * units, 0);
    }
}

/// As [`QuantisedRows`], one token, to write.
struct QuantisedRow<'a> {
    bytes: &'a mut [i8],
    scales: &'a mut [f32],
    scaled_sums: &'a mut [f32],
    negative_sums: &'a mut [i32],
    negative_half_sums: &'a mut [i32],
}

/// Quantises one token; the last unit is filled up with zeros.
#[inline(always)]
unsafe fn quantise<L: Lanes>(values: &[f32], out: &mut QuantisedRow<'_>) {
    let (whole, rest) = values.as_chunks::<UNIT_COLUMNS>();
    let mut last = [0.0; UNIT_COLUMNS];
    last[..rest.len()].copy_from_slice(rest);
    for unit in 0..out.scales.len() {
        let values = whole.get(unit).unwrap_or(&last);
        let bytes = &mut out.bytes[unit * UNIT_COLUMNS..][..UNIT_COLUMNS];
        // SAFETY: a unit has 32 values and 32 bytes; the caller has the instruction set.
        let scale = unsafe { quantise_unit::<L>(values, bytes) };
        let sum = |half: usize| -> i32 {
            bytes[16 * half..][..16].iter().map(|&byte| i32::from(byte)).sum()
        };
        let (first, second) = (sum(0), sum(1));
        out.scales[unit] = scale;
        out.scaled_sums[unit] = scale * (first + second) as f32;
        out.negative_sums[unit] = -(first + second);
        out.negative_half_sums[2 * unit] = -first;
        out.negative_half_sums[2 * unit + 1] = -second;
    }
}

/// Writes the bytes of 32 values and returns their scale.
#[inline(always)]
unsafe fn quantise_unit<L: Lanes>(values: &[f32; UNIT_COLUMNS], bytes: &mut [i8]) -> f32 {
    // SAFETY: both have 32 places and vectors are read and written inside them.
    unsafe {
        let mut most = L::splat(0.0);
        for at in (0..UNIT_COLUMNS).step_by(L::COUNT) {
            most = L::max(most, L::abs(L::load(values.as_ptr().add(at))));
        }
        let most = L::greatest(most);
        let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
        // Subnormal magnitudes have an infinite inverse: they count as zero.
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        for at in (0..UNIT_COLUMNS).step_by(L::COUNT) {
            let scaled = L::mul(L::load(values.as_ptr().add(at)), L::splat(inverse));
            L::store_i8(bytes.as_mut_ptr().add(at), L::round(scaled));
        }
        most / 127.0
    }
}
