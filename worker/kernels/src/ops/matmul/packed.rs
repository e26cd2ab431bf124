//! Weights laid out for the processor, made once at load.

use std::mem::MaybeUninit;

use super::layout::{PANEL_ROWS, PanelLayout, VECTOR_BYTES};
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
    segments: Vec<Segment>,
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
        Ok(Self { rows, columns, segments })
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
