//! Where the products of a tile go, and how the sums of stretches of a row become one.

use super::MatmulOutput;
use super::layout::PANEL_ROWS;
use crate::pool::SharedSlice;
use crate::simd::Lanes;

/// The output of a matmul, shared by its tasks.
pub(super) enum SharedOutput {
    Set(SharedSlice<f32>),
    Add(SharedSlice<f32>),
    Wide(SharedSlice<f64>),
}

impl SharedOutput {
    /// The caller keeps `out` borrowed until all tasks are over.
    pub(super) fn new(out: MatmulOutput<'_>) -> Self {
        match out {
            MatmulOutput::Set(values) => Self::Set(SharedSlice::new(values)),
            MatmulOutput::Add(values) => Self::Add(SharedSlice::new(values)),
            MatmulOutput::Wide(values) => Self::Wide(SharedSlice::new(values)),
        }
    }

    /// Places `start..start + length`.
    ///
    /// # Safety
    /// As [`SharedSlice::range`].
    #[inline(always)]
    pub(super) unsafe fn place(&self, start: usize, length: usize) -> Place {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Set(values) => Place::Set(values.range(start, length).as_mut_ptr()),
                Self::Add(values) => Place::Add(values.range(start, length).as_mut_ptr()),
                Self::Wide(values) => Place::Wide(values.range(start, length).as_mut_ptr()),
            }
        }
    }
}

/// The first value of a tile's result, and what happens to what is there.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Set(*mut f32),
    Add(*mut f32),
    Wide(*mut f64),
}

impl Place {
    pub(super) fn is_wide(self) -> bool {
        matches!(self, Self::Wide(_))
    }
}

/// Where a tile's result goes: `rows` of the panel exist, tokens are `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct TileOut {
    /// The panel's first row of the tile's first token.
    pub(super) first: Place,
    /// From a token to the next.
    pub(super) stride: usize,
    /// Rows of the panel that exist, 1 to 16.
    pub(super) rows: usize,
}

/// Writes the products of the lanes from row `first` on: sums of all columns.
///
/// # Safety
/// The instruction set of `L` is present; the places of `out` exist and nobody else uses them; they
/// are floats.
#[inline(always)]
pub(super) unsafe fn write<L: Lanes, const T: usize>(
    totals: [L::Floats; T],
    first: usize,
    out: TileOut,
) {
    let TileOut { first: place, stride, rows } = out;
    let (to, adds) = match place {
        Place::Set(to) => (to, false),
        Place::Add(to) => (to, true),
        Place::Wide(_) => return,
    };
    if first >= rows {
        return;
    }
    // SAFETY: whole vectors are touched only where all their rows exist.
    unsafe {
        for (t, &total) in totals.iter().enumerate() {
            let to = to.add(t * stride + first);
            if rows - first >= L::COUNT {
                let total = if adds { L::add(L::load(to), total) } else { total };
                L::store(to, total);
                continue;
            }
            let mut lanes = [0.0f32; PANEL_ROWS];
            L::store(lanes.as_mut_ptr(), total);
            for (i, lane) in lanes[..rows - first].iter().enumerate() {
                *to.add(i) = if adds { *to.add(i) + lane } else { *lane };
            }
        }
    }
}

/// Sums of a tile's lanes over stretches of columns.
pub(super) struct Sums<const T: usize>([[f64; PANEL_ROWS]; T]);

impl<const T: usize> Sums<T> {
    pub(super) const ZERO: Self = Self([[0.0; PANEL_ROWS]; T]);

    /// Adds those of another stretch.
    ///
    /// # Safety
    /// The instruction set of `L` is present.
    #[inline(always)]
    pub(super) unsafe fn add<L: Lanes>(&mut self, totals: [L::Floats; T]) {
        for (sums, total) in self.0.iter_mut().zip(totals) {
            // SAFETY: the caller's; no set has more than 16 lanes.
            unsafe { L::add_to_doubles(sums.as_mut_ptr(), total) };
        }
    }

    /// Writes them to the rows from `first` on.
    ///
    /// # Safety
    /// As [`write`], and they may be doubles.
    #[inline(always)]
    pub(super) unsafe fn write<L: Lanes>(&self, first: usize, out: TileOut) {
        if first >= out.rows {
            return;
        }
        // SAFETY: only rows that exist are written.
        unsafe {
            if let Place::Wide(to) = out.first {
                let rows = L::COUNT.min(out.rows - first);
                for (t, sums) in self.0.iter().enumerate() {
                    let to = to.add(t * out.stride + first);
                    to.copy_from_nonoverlapping(sums.as_ptr(), rows);
                }
                return;
            }
            let mut totals = [L::splat(0.0); T];
            for (total, sums) in totals.iter_mut().zip(&self.0) {
                *total = L::load_doubles(sums.as_ptr());
            }
            write::<L, T>(totals, first, out);
        }
    }
}
