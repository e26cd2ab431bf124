//! Weights laid out for the processor, made once at load.

use std::mem::MaybeUninit;

use super::layout::{PANEL_ROWS, PanelLayout, UNIT_COLUMNS, VECTOR_BYTES};
use super::pack;
use crate::matrix::MatrixView;
use crate::pool::ComputePool;
use crate::shape::{self, ShapeError};

/// A weight matrix `[rows, columns]` in this crate's own layout. It may be a stack of several
/// matrices, each in its own format (q, k and v; gate and up), which one
/// [`matmul`](super::matmul) multiplies in one go.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    stretches: Stretches,
    segments: Vec<Segment>,
}

/// How the columns of a row are summed: those of a stretch in f32, the sums of stretches in f64.
///
/// Two parts of a row that are cut between stretches add up to the bits that the row has in one
/// piece: f64 holds a sum of f32 without rounding as long as none is some 2^28 times another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretches {
    /// Columns of a stretch.
    pub columns: usize,
    /// How many columns of the first stretch are not there, because the row begins behind them.
    pub skipped: usize,
}

impl Stretches {
    /// One, of as many columns as there are.
    pub const ONE: Self = Self { columns: usize::MAX, skipped: 0 };

    /// Columns of the first stretch.
    pub(super) fn first(&self) -> usize {
        self.columns - self.skipped
    }

    /// The same in units of `size` columns.
    pub(super) fn in_units(self, size: usize) -> Self {
        Self { columns: self.columns / size, skipped: self.skipped / size }
    }
}

/// One matrix of the stack.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) layout: PanelLayout,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    panel_bytes: usize,
    lines: Vec<Line>,
}

/// A cache line, and the alignment that vectors want.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; VECTOR_BYTES]);

impl PackedMatrix {
    /// Packs one matrix, on all threads. Errors: sizes that overflow.
    pub fn pack(view: &MatrixView<'_>, pool: &ComputePool) -> Result<Self, ShapeError> {
        Self::pack_stacked(std::slice::from_ref(view), pool)
    }

    /// Packs several matrices under each other; row 0 of the second follows the last row of the
    /// first. Formats may differ. Errors: the columns differ, or there is no matrix.
    pub fn pack_stacked(views: &[MatrixView<'_>], pool: &ComputePool) -> Result<Self, ShapeError> {
        const OP: &str = "pack";
        shape::at_most(OP, "count of missing matrices", 0, usize::from(views.is_empty()))?;
        let columns = views[0].columns();
        let (mut rows, mut segments) = (0, Vec::with_capacity(views.len()));
        for view in views {
            shape::exactly(OP, "columns", columns, view.columns())?;
            segments.push(Segment::pack(view, rows, pool));
            rows += view.rows();
        }
        Ok(Self { rows, columns, stretches: Stretches::ONE, segments })
    }

    /// The same matrix, its rows summed in `stretches`. Errors: one is empty, or begins inside the
    /// 32 columns that quantised activations have a scale for.
    pub fn in_stretches(self, stretches: Stretches) -> Result<Self, ShapeError> {
        const OP: &str = "stretches";
        let Stretches { columns, skipped } = stretches;
        shape::at_most(OP, "columns skipped of a stretch", columns.saturating_sub(1), skipped)?;
        shape::at_most(OP, "count of empty ones", 0, usize::from(columns == 0))?;
        let is_float = |segment: &Segment| matches!(segment.layout, PanelLayout::Float(_));
        if stretches != Stretches::ONE && !self.segments.iter().all(is_float) {
            shape::multiple(OP, "columns", UNIT_COLUMNS, columns)?;
            shape::multiple(OP, "columns skipped", UNIT_COLUMNS, skipped)?;
        }
        Ok(Self { stretches, ..self })
    }

    /// Rows: values that a token's product has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: values that a token's row has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of memory the weights take.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.lines.len() * VECTOR_BYTES).sum()
    }

    pub(super) fn stretches(&self) -> Stretches {
        self.stretches
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl Segment {
    fn pack(view: &MatrixView<'_>, first_row: usize, pool: &ComputePool) -> Self {
        let layout = PanelLayout::of(view.dtype());
        let panel_bytes = layout.panel_bytes(view.columns());
        let panel_lines = panel_bytes / VECTOR_BYTES;
        let lines_total = view.rows().div_ceil(PANEL_ROWS) * panel_lines;
        let mut lines: Vec<Line> = Vec::with_capacity(lines_total);
        let spare = &mut lines.spare_capacity_mut()[..lines_total];
        // Pages are first touched by the thread that packs them.
        pool.run_rows(spare, panel_lines.max(1), &|panel, lines: &mut [MaybeUninit<Line>]| {
            lines.fill(MaybeUninit::new(Line([0; VECTOR_BYTES])));
            // SAFETY: the lines were just written, and a line is its 64 bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), panel_bytes) };
            pack::panel(pool.cpu(), view, panel * PANEL_ROWS, bytes);
        });
        // SAFETY: each panel's task has written all its lines, and together they are all of them.
        unsafe { lines.set_len(lines_total) };
        Self { layout, first_row, rows: view.rows(), panel_bytes, lines }
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    /// The first byte of a panel, which must exist.
    pub(super) fn panel(&self, panel: usize) -> *const u8 {
        let lines = self.panel_bytes / VECTOR_BYTES;
        self.lines[panel * lines..][..lines].as_ptr().cast()
    }
}
