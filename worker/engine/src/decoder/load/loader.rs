//! The tensors of a shard, each cut to what the rank holds of it.

use std::cell::Cell;
use std::ops::Range;

use naru_kernels::{MatrixView, ShapeError, Stretches};

use super::super::layer::{Head, Layer, Norm, Projection};
use super::super::positions::RopeTables;
use super::super::shard::{Cut, Shard};
use super::{Source, Store, layout};
use crate::config::{
    LayerRole, ModelConfig, ModelRole, NameTable, NormKind, NormPlacement, QkNorm,
};
use crate::weights::{MappedMatrix, Tensors, WeightError, floats};

/// A role that a family's name table does not have is a missing tensor of the role's name.
fn missing(role: impl std::fmt::Debug) -> WeightError {
    WeightError::Missing { name: format!("{role:?}") }
}

type StoreProjection<S> = Projection<<S as Store>::Matrix, <S as Store>::Vector>;

pub(super) struct Loader<'a, S> {
    tensors: &'a Tensors,
    names: &'static NameTable,
    config: &'a ModelConfig,
    pub(super) shard: &'a Shard,
    cut: &'a Cut,
    store: &'a S,
    /// Bytes of the files that were asked for.
    bytes_read: Cell<u64>,
}

/// A matrix to be packed: its name, its whole shape, and the part of it that is wanted.
struct Part {
    name: String,
    rows: usize,
    columns: usize,
    wanted_rows: Range<usize>,
    wanted_columns: Range<usize>,
}

impl<'a, S: Store> Loader<'a, S> {
    pub(super) fn new(source: &Source<'a>, shard: &'a Shard, cut: &'a Cut, store: &'a S) -> Self {
        let &Source { config, names, tensors } = source;
        Self { tensors, names, config, shard, cut, store, bytes_read: Cell::new(0) }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    fn count(&self, view: &MatrixView<'_>) {
        let row_bytes = view.dtype().row_bytes(view.columns()).unwrap_or(0);
        self.bytes_read.set(self.bytes_read() + (view.rows() * row_bytes) as u64);
    }

    pub(super) fn layer(
        &self,
        layer: usize,
        ropes: &mut RopeTables,
    ) -> Result<Layer<S::Matrix, S::Vector>, WeightError> {
        let of_layer = &self.config.layers[layer];
        let placement = self.config.norm.placement;
        let before = !matches!(placement, NormPlacement::Post);
        let after = matches!(placement, NormPlacement::Post | NormPlacement::Sandwich);
        let two = !matches!(placement, NormPlacement::Parallel);
        let norm =
            |wanted: bool, role| wanted.then(|| self.norm(&self.name(role, layer)?)).transpose();
        let (output, output_lead) = self.attention_output(layer)?;
        Ok(Layer {
            attention_norm: norm(before, LayerRole::AttentionNorm)?,
            input: self.attention_input(layer)?,
            query_norm: self.head_norm(LayerRole::QueryNorm, layer)?,
            key_norm: self.head_norm(LayerRole::KeyNorm, layer)?,
            rope: of_layer.rope.as_ref().map(|rope| ropes.index(rope, self.config)),
            window: of_layer.window,
            output,
            output_lead,
            attention_post_norm: norm(after, LayerRole::AttentionPostNorm)?,
            feed_forward_norm: norm(before && two, LayerRole::FeedForwardNorm)?,
            up: self.up(layer)?,
            down: self.down(layer)?,
            feed_forward_post_norm: norm(after, LayerRole::FeedForwardPostNorm)?,
        })
    }

    fn attention_input(&self, layer: usize) -> Result<StoreProjection<S>, WeightError> {
        let (attention, hidden) = (&self.config.attention, self.config.hidden);
        let dim = attention.head_dim;
        let part = |role, heads: usize, held: &Range<usize>| {
            Ok(Part {
                name: self.name(role, layer)?,
                rows: heads * dim,
                columns: hidden,
                wanted_rows: held.start * dim..held.end * dim,
                wanted_columns: 0..hidden,
            })
        };
        let parts = [
            part(LayerRole::Query, attention.heads, &self.cut.heads)?,
            part(LayerRole::Key, attention.kv_heads, &self.cut.kv_heads)?,
            part(LayerRole::Value, attention.kv_heads, &self.cut.kv_heads)?,
        ];
        self.projection(&parts, attention.input_bias, Stretches::ONE)
    }

    /// The output projection of this rank's heads, and how many columns it has in front of them.
    /// Heads may begin and end inside a block of the format: the whole block is held then, by both
    /// ranks that share it, and what a rank has no heads for reads zeros.
    fn attention_output(&self, layer: usize) -> Result<(StoreProjection<S>, usize), WeightError> {
        let (attention, hidden) = (&self.config.attention, self.config.hidden);
        let name = self.name(LayerRole::AttentionOutput, layer)?;
        let block = self.tensors.block_elements(&format!("{name}.weight"));
        let (dim, columns) = (attention.head_dim, attention.heads * attention.head_dim);
        let heads = self.cut.heads.start * dim..self.cut.heads.end * dim;
        let start = heads.start / block * block;
        let part = Part {
            name,
            rows: hidden,
            columns,
            wanted_rows: 0..hidden,
            wanted_columns: start..heads.end.next_multiple_of(block).min(columns),
        };
        let stretches = self.cut.head_stretches(dim, block, start);
        let projection = self.projection(&[part], attention.output_bias, stretches)?;
        Ok((projection, heads.start - start))
    }

    fn up(&self, layer: usize) -> Result<StoreProjection<S>, WeightError> {
        let hidden = self.config.hidden;
        let roles: &[LayerRole] = if self.config.feed_forward.gated {
            &[LayerRole::Gate, LayerRole::Up]
        } else {
            &[LayerRole::Up]
        };
        let part = |role: &LayerRole| {
            Ok(Part {
                name: self.name(*role, layer)?,
                rows: self.config.feed_forward.width,
                columns: hidden,
                wanted_rows: self.cut.width.clone(),
                wanted_columns: 0..hidden,
            })
        };
        let parts: Vec<Part> = roles.iter().map(part).collect::<Result<_, _>>()?;
        self.projection(&parts, self.config.feed_forward.bias, Stretches::ONE)
    }

    fn down(&self, layer: usize) -> Result<StoreProjection<S>, WeightError> {
        let part = Part {
            name: self.name(LayerRole::Down, layer)?,
            rows: self.config.hidden,
            columns: self.config.feed_forward.width,
            wanted_rows: 0..self.config.hidden,
            wanted_columns: self.cut.width.clone(),
        };
        self.projection(&[part], self.config.feed_forward.bias, self.cut.width_stretches())
    }

    pub(super) fn embedding(&self) -> Result<S::Table, WeightError> {
        let (name, matrix) = self.vocabulary_part(ModelRole::Embedding)?;
        self.count(&matrix.view().map_err(|source| layout(&name, source))?);
        self.store.table(&name, matrix)
    }

    pub(super) fn head(&self) -> Result<Head<S::Matrix, S::Vector>, WeightError> {
        let tied = self.config.tied_embeddings;
        let role = if tied { ModelRole::Embedding } else { ModelRole::Output };
        let (name, matrix) = self.vocabulary_part(role)?;
        let view = matrix.view().map_err(|source| layout(&name, source))?;
        if !(tied && self.shard.is_first_stage()) {
            self.count(&view);
        }
        let weight = self.store.matrix(&name, &[view], Stretches::ONE)?;
        matrix.forget();
        let norm = self.names.of_model(ModelRole::OutputNorm);
        let norm = self.norm(&norm.ok_or_else(|| missing(ModelRole::OutputNorm))?)?;
        Ok(Head { norm, weight })
    }

    /// This rank's rows of an embedding table or output head.
    fn vocabulary_part(&self, role: ModelRole) -> Result<(String, MappedMatrix), WeightError> {
        let name = self.names.of_model(role).ok_or_else(|| missing(role))?;
        let name = format!("{name}.weight");
        let (rows, columns) = (self.config.vocabulary, self.config.hidden);
        let matrix = self.tensors.matrix(&name, rows, columns)?;
        Ok((name, matrix.rows(self.cut.vocabulary.clone())))
    }

    fn name(&self, role: LayerRole, layer: usize) -> Result<String, WeightError> {
        self.names.of_layer(role, layer).ok_or_else(|| missing(role))
    }

    fn norm(&self, name: &str) -> Result<Norm<S::Vector>, WeightError> {
        let (kind, hidden) = (self.config.norm.kind, self.config.hidden);
        let vector =
            |name: String| self.store.vector(&name, self.vector(&name, hidden, 0..hidden)?);
        let weight = vector(format!("{name}.weight"))?;
        let bias = (kind == NormKind::Layer).then(|| vector(format!("{name}.bias"))).transpose()?;
        Ok(Norm { kind, epsilon: self.config.norm.epsilon, weight, bias })
    }

    fn head_norm(
        &self,
        role: LayerRole,
        layer: usize,
    ) -> Result<Option<Norm<S::Vector>>, WeightError> {
        if self.config.attention.qk_norm == QkNorm::None {
            return Ok(None);
        }
        let name = format!("{}.weight", self.name(role, layer)?);
        let dim = self.config.attention.head_dim;
        let weight = self.vector(&name, dim, 0..dim)?;
        let weight = self.store.vector(&name, weight)?;
        // A layer norm of heads has no bias in any known checkpoint.
        let (kind, epsilon) = (self.config.norm.kind, self.config.norm.epsilon);
        Ok(Some(Norm { kind, epsilon, weight, bias: None }))
    }

    /// Packs `parts` under each other, with their biases when there are any.
    fn projection(
        &self,
        parts: &[Part],
        with_bias: bool,
        stretches: Stretches,
    ) -> Result<StoreProjection<S>, WeightError> {
        let open = |part: &Part| {
            self.tensors.matrix(&format!("{}.weight", part.name), part.rows, part.columns)
        };
        let matrices: Vec<MappedMatrix> = parts.iter().map(open).collect::<Result<_, _>>()?;
        let mut views = Vec::with_capacity(parts.len());
        for (part, matrix) in parts.iter().zip(&matrices) {
            let view = cut_view(part, matrix);
            let view = view.map_err(|source| layout(&format!("{}.weight", part.name), source))?;
            self.count(&view);
            views.push(view);
        }
        let weight = self.store.matrix(&format!("{}.weight", parts[0].name), &views, stretches)?;
        matrices.iter().for_each(MappedMatrix::forget);
        let mut bias = Vec::new();
        for part in parts.iter().filter(|_| with_bias) {
            let name = format!("{}.bias", part.name);
            bias.extend(self.vector(&name, part.rows, part.wanted_rows.clone())?);
        }
        let name = format!("{}.bias", parts[0].name);
        let bias = with_bias.then(|| self.store.vector(&name, bias)).transpose()?;
        Ok(Projection { weight, bias })
    }

    /// Values `part` of a vector of the files.
    fn vector(
        &self,
        name: &str,
        length: usize,
        part: Range<usize>,
    ) -> Result<Vec<f32>, WeightError> {
        let view = self.tensors.vector_part(name, length, part)?;
        self.count(&view);
        floats(&view).map_err(|source| layout(name, source))
    }
}

fn cut_view<'a>(part: &Part, matrix: &'a MappedMatrix) -> Result<MatrixView<'a>, ShapeError> {
    let rows = matrix.view()?.slice_rows(part.wanted_rows.clone())?;
    if part.wanted_columns == (0..part.columns) {
        return Ok(rows);
    }
    rows.slice_columns(part.wanted_columns.clone())
}
