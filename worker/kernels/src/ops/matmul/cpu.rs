//! Matmul on the processor: which panels and tokens make a task, and which kernel runs it.

use std::ops::Range;

use super::MatmulOutput;
use super::activations::Activations;
use super::layout::{
    Fifths, FifthsOffset, FloatKind, Nibbles, NibblesOffset, PANEL_ROWS, PanelLayout, Quantised,
    Sixths, UNIT_COLUMNS, Whole,
};
use super::output::{SharedOutput, TileOut};
use super::packed::{PackedMatrix, Segment, Stretches};
use super::tile::{self, Brain, FloatWeight, Half, Single};
use crate::pool::ComputePool;
use crate::simd::{self, Lanes};

/// Tokens whose activations stay in a core's second cache while the panels of a task pass by.
const TASK_TOKENS_MAX: usize = 64;
/// Tasks per thread that even out cores of unequal speed.
const TASKS_PER_THREAD: usize = 4;
/// Less weight than this is not worth a task of its own (about a microsecond of reading).
const TASK_BYTES_MIN: usize = 16 << 10;

/// Some panels of one segment against some tokens.
struct Task<'a> {
    segment: &'a Segment,
    panels: Range<usize>,
    tokens: Range<usize>,
    x: &'a Activations,
    stretches: Stretches,
    out: &'a SharedOutput,
    /// Rows of the whole stack: from a token of the output to the next.
    stride: usize,
}

/// See the op; sizes are checked and there is something to do.
pub(super) fn matmul(
    pool: &ComputePool,
    weight: &PackedMatrix,
    x: &Activations,
    out: MatmulOutput<'_>,
) {
    let chunk_bytes = weight.bytes().div_ceil(pool.threads() * TASKS_PER_THREAD);
    let chunk_bytes = chunk_bytes.max(TASK_BYTES_MIN);
    let chunk = |segment: &Segment| chunk_bytes.div_ceil(segment.panel_bytes().max(1));
    let chunks = |segment: &Segment| segment.panels().div_ceil(chunk(segment));
    let chunks_total: usize = weight.segments().iter().map(chunks).sum();
    let token_blocks = x.tokens().div_ceil(TASK_TOKENS_MAX);
    let shared = SharedOutput::new(out);
    pool.run(chunks_total * token_blocks, &|task| {
        let (block, mut index) = (task / chunks_total, task % chunks_total);
        let first_token = block * TASK_TOKENS_MAX;
        for segment in weight.segments() {
            if index >= chunks(segment) {
                index -= chunks(segment);
                continue;
            }
            let first = index * chunk(segment);
            let task = &Task {
                segment,
                panels: first..(first + chunk(segment)).min(segment.panels()),
                tokens: first_token..(first_token + TASK_TOKENS_MAX).min(x.tokens()),
                x,
                stretches: weight.stretches(),
                out: &shared,
                stride: weight.rows(),
            };
            simd::dispatch!(pool.cpu(), run_task(task: &Task<'_>));
            return;
        }
    });
}

/// # Safety
/// The instruction set of `L` is present.
#[inline(always)]
unsafe fn run_task<L: Lanes>(task: &Task<'_>) {
    // SAFETY: the caller's instruction set; the segment holds the layout that it names.
    unsafe {
        match task.segment.layout {
            PanelLayout::Nibbles => quantised_panels::<L, Nibbles>(task),
            PanelLayout::NibblesOffset => quantised_panels::<L, NibblesOffset>(task),
            PanelLayout::Fifths => quantised_panels::<L, Fifths>(task),
            PanelLayout::FifthsOffset => quantised_panels::<L, FifthsOffset>(task),
            PanelLayout::Sixths => quantised_panels::<L, Sixths>(task),
            PanelLayout::Whole => quantised_panels::<L, Whole>(task),
            PanelLayout::Float(FloatKind::F32) => float_panels::<L, Single>(task),
            PanelLayout::Float(FloatKind::F16) => float_panels::<L, Half>(task),
            PanelLayout::Float(FloatKind::BF16) => float_panels::<L, Brain>(task),
        }
    }
}

impl Task<'_> {
    /// Where the tile of `width` tokens from `token` on and of `panel` goes.
    #[inline(always)]
    fn out(&self, panel: usize, token: usize) -> TileOut {
        let row = panel * PANEL_ROWS;
        let rows = PANEL_ROWS.min(self.segment.rows - row);
        let at = token * self.stride + self.segment.first_row + row;
        // SAFETY: no other task has these rows of these tokens.
        let first = unsafe { self.out.place(at, rows) };
        TileOut { first, stride: self.stride, rows }
    }
}

/// The widest tile of 8, 4, 2 or 1 tokens, not over `widest`, that `left` tokens fill.
fn tile_width(left: usize, widest: usize) -> usize {
    let mut width = widest;
    while width > left {
        width /= 2;
    }
    width
}

/// # Safety
/// The instruction set of `L` is present and the segment's layout is `Q`.
#[inline(always)]
unsafe fn quantised_panels<L: Lanes, Q: Quantised>(task: &Task<'_>) {
    // Eight rows of AVX2 leave registers for four tokens.
    let widest = if L::COUNT == 16 { 8 } else { 4 };
    let units = task.x.units();
    let stretches = task.stretches.in_units(UNIT_COLUMNS);
    for panel in task.panels.clone() {
        let weights = task.segment.panel(panel);
        let mut token = task.tokens.start;
        while token < task.tokens.end {
            let width = tile_width(task.tokens.end - token, widest);
            let x = task.x.quantised_from(token);
            let out = task.out(panel, token);
            // SAFETY: the panel has the segment's layout and as many units as x; the tokens exist.
            unsafe {
                match width {
                    8 => tile::quantised::<L, Q, 8>(weights, units, stretches, &x, out),
                    4 => tile::quantised::<L, Q, 4>(weights, units, stretches, &x, out),
                    2 => tile::quantised::<L, Q, 2>(weights, units, stretches, &x, out),
                    _ => tile::quantised::<L, Q, 1>(weights, units, stretches, &x, out),
                }
            }
            token += width;
        }
    }
}

/// # Safety
/// The instruction set of `L` is present and the segment holds floats `W`.
#[inline(always)]
unsafe fn float_panels<L: Lanes, W: FloatWeight>(task: &Task<'_>) {
    let widest = if L::COUNT == 16 { 4 } else { 2 };
    let columns = task.x.columns();
    for panel in task.panels.clone() {
        let weights = task.segment.panel(panel);
        let mut token = task.tokens.start;
        while token < task.tokens.end {
            let width = tile_width(task.tokens.end - token, widest);
            let x = task.x.values()[token * columns..].as_ptr();
            let out = task.out(panel, token);
            // SAFETY: the panel has as many columns as x; the tokens exist.
            unsafe {
                match width {
                    4 => tile::floats::<L, W, 4>(weights, columns, task.stretches, x, out),
                    2 => tile::floats::<L, W, 2>(weights, columns, task.stretches, x, out),
                    _ => tile::floats::<L, W, 1>(weights, columns, task.stretches, x, out),
                }
            }
            token += width;
        }
    }
}
