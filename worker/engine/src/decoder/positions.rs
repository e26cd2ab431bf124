//! Positions: cosines and sines of a step's tokens, once for all layers that turn alike.

use naru_kernels::{RopeShape, rope};

use crate::config::{ModelConfig, Rope};

/// The distinct ropes of a model, with room for one step's cosines and sines.
pub(super) struct RopeTables {
    tables: Vec<RopeTable>,
}

/// One rope and its values for the tokens of a step.
pub(super) struct RopeTable {
    rope: Rope,
    shape: RopeShape,
    frequencies: Vec<f64>,
    /// `[tokens, rotary_dim / 2]`.
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl RopeTables {
    /// No rope yet.
    pub(super) fn new() -> Self {
        Self { tables: Vec::new() }
    }

    /// The index of `rope`'s table, made at its first use.
    pub(super) fn index(&mut self, rope: &Rope, config: &ModelConfig) -> usize {
        if let Some(index) = self.tables.iter().position(|table| table.rope == *rope) {
            return index;
        }
        self.tables.push(RopeTable {
            rope: rope.clone(),
            shape: RopeShape {
                head_dim: config.attention.head_dim,
                rotary_dim: rope.rotary_dim,
                pairs: rope.pairs,
            },
            frequencies: rope.frequencies(),
            cosines: Vec::new(),
            sines: Vec::new(),
        });
        self.tables.len() - 1
    }

    /// Computes the values for tokens at `positions`. Angles are computed in f64: at a million
    /// tokens an f32 angle is off by a thirtieth of a turn.
    pub(super) fn fill(&mut self, positions: &[usize]) {
        for table in &mut self.tables {
            let amplitude = f64::from(table.rope.amplitude());
            table.cosines.clear();
            table.sines.clear();
            for &position in positions {
                for frequency in &table.frequencies {
                    let (sine, cosine) = (position as f64 * frequency).sin_cos();
                    table.cosines.push((cosine * amplitude) as f32);
                    table.sines.push((sine * amplitude) as f32);
                }
            }
        }
    }

    /// The tables, by [`index`](Self::index).
    pub(super) fn iter(&self) -> impl Iterator<Item = &RopeTable> {
        self.tables.iter()
    }

    /// The table of that index.
    pub(super) fn get(&self, index: usize) -> &RopeTable {
        &self.tables[index]
    }
}

impl RopeTable {
    /// Which values turn together.
    pub(super) fn shape(&self) -> RopeShape {
        self.shape
    }

    /// `[positions, rotary_dim / 2]`.
    pub(super) fn cosines(&self) -> &[f32] {
        &self.cosines
    }

    /// As [`cosines`](Self::cosines).
    pub(super) fn sines(&self) -> &[f32] {
        &self.sines
    }

    /// Turns the heads of the step's token `row` in place.
    pub(super) fn turn(&self, row: usize, heads: &mut [f32]) {
        let width = self.frequencies.len();
        let range = row * width..(row + 1) * width;
        rope(self.shape, &self.cosines[range.clone()], &self.sines[range], heads)
            .expect("the rope was checked against the head size at load");
    }
}
