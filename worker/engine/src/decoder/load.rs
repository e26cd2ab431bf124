//! Load: a shard's weights, from the mapped files into the layout of what computes on them.

use std::ops::Range;
use std::sync::Arc;

use naru_kernels::{ComputePool, DType, MatrixView, PackedMatrix, ShapeError, dequantise};
use thiserror::Error;

use super::Decoder;
use super::forward::Scratch;
use super::layer::{Head, Layer, Norm, Projection};
use super::positions::RopeTables;
use super::shard::{Cut, Shard, ShardError};
use crate::config::{
    LayerRole, ModelConfig, ModelRole, NameTable, NormKind, NormPlacement, QkNorm,
};
use crate::weights::{MappedMatrix, Tensors, WeightError};

/// How far a load has come. Bytes are those of the tensors in the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Laid out so far.
    pub bytes_done: u64,
    /// To be laid out in all.
    pub bytes_total: u64,
}

/// A model that could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The model cannot be cut as asked.
    #[error("cutting the model")]
    Shard(#[source] ShardError),
    /// A tensor cannot be used.
    #[error("loading the weights")]
    Weight(#[source] WeightError),
}

/// A model's configuration and tensors, whatever they came from.
pub(super) struct Source<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) names: &'static NameTable,
    pub(super) tensors: &'a Tensors,
}

/// Where weights are laid out to be computed on.
pub(super) trait Store {
    /// A matrix there.
    type Matrix;
    /// A vector there.
    type Vector;
    /// An embedding table there.
    type Table;

    /// Lays out `views` under each other. `name` is for errors.
    fn matrix(&self, name: &str, views: &[MatrixView<'_>]) -> Result<Self::Matrix, WeightError>;

    /// Keeps a vector.
    fn vector(&self, name: &str, values: Vec<f32>) -> Result<Self::Vector, WeightError>;

    /// Keeps an embedding table.
    fn table(&self, name: &str, matrix: MappedMatrix) -> Result<Self::Table, WeightError>;
}

/// This processor's memory: matrices are packed, the embedding table stays in its file.
struct Host<'a> {
    pool: &'a ComputePool,
    /// Whether matrices become 32-bit floats first.
    in_floats: bool,
}

impl Store for Host<'_> {
    type Matrix = PackedMatrix;
    type Vector = Vec<f32>;
    type Table = MappedMatrix;

    fn matrix(&self, name: &str, views: &[MatrixView<'_>]) -> Result<PackedMatrix, WeightError> {
        let packed = if self.in_floats {
            pack_floats(views, self.pool)
        } else {
            PackedMatrix::pack_stacked(views, self.pool)
        };
        packed.map_err(|source| layout(name, source))
    }

    fn vector(&self, _name: &str, values: Vec<f32>) -> Result<Vec<f32>, WeightError> {
        Ok(values)
    }

    fn table(&self, _name: &str, matrix: MappedMatrix) -> Result<MappedMatrix, WeightError> {
        Ok(matrix)
    }
}

fn pack_floats(views: &[MatrixView<'_>], pool: &ComputePool) -> Result<PackedMatrix, ShapeError> {
    let (mut bytes, mut rows) = (Vec::new(), 0);
    let columns = views.first().map_or(0, MatrixView::columns);
    let mut values = vec![0.0; columns];
    for view in views {
        for row in 0..view.rows() {
            dequantise(view.dtype(), view.row(row), &mut values)?;
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        rows += view.rows();
    }
    PackedMatrix::pack(&MatrixView::new(DType::F32, rows, columns, &bytes)?, pool)
}

/// A shard's weights in a store.
pub(super) struct Loaded<S: Store> {
    pub(super) cut: Cut,
    pub(super) embedding: Option<S::Table>,
    pub(super) layers: Vec<Layer<S::Matrix, S::Vector>>,
    pub(super) head: Option<Head<S::Matrix, S::Vector>>,
    pub(super) ropes: RopeTables,
}

pub(super) fn load(
    source: &Source<'_>,
    shard: Shard,
    pool: Arc<ComputePool>,
    in_floats: bool,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Decoder, LoadError> {
    let host = Host { pool: &pool, in_floats };
    let loaded = load_into(&host, source, &shard, progress)?;
    let Loaded { cut, embedding, layers, head, ropes } = loaded;
    let (config, scratch) = (source.config.clone(), Scratch::default());
    Ok(Decoder { config, scratch, pool, embedding, layers, head, ropes, cut, shard })
}

/// Lays out the weights of `shard` in `store`; `progress` is told after each layer.
pub(super) fn load_into<S: Store>(
    store: &S,
    source: &Source<'_>,
    shard: &Shard,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Loaded<S>, LoadError> {
    let &Source { config, names, tensors } = source;
    let cut = shard.cut(config).map_err(LoadError::Shard)?;
    let mut ropes = RopeTables::new();
    let loader = Loader { tensors, names, config, shard, cut: &cut, store };
    let mut done = LoadProgress { bytes_done: 0, bytes_total: loader.bytes_total() };
    progress(done);
    let layers = shard.layers.clone().map(|index| {
        let layer = loader.layer(index, &mut ropes)?;
        done.bytes_done += loader.layer_bytes(index);
        progress(done);
        Ok(layer)
    });
    let layers = layers.collect::<Result<_, _>>().map_err(LoadError::Weight)?;
    let embedding = shard.first_stage.then(|| loader.embedding()).transpose();
    let head = shard.last_stage.then(|| loader.head()).transpose();
    let (embedding, head) =
        (embedding.map_err(LoadError::Weight)?, head.map_err(LoadError::Weight)?);
    done.bytes_done = done.bytes_total;
    progress(done);
    Ok(Loaded { cut, embedding, layers, head, ropes })
}

/// A role that a family's name table does not have is a missing tensor of the role's name.
fn missing(role: impl std::fmt::Debug) -> WeightError {
    WeightError::Missing { name: format!("{role:?}") }
}

struct Loader<'a, S> {
    tensors: &'a Tensors,
    names: &'static NameTable,
    config: &'a ModelConfig,
    shard: &'a Shard,
    cut: &'a Cut,
    store: &'a S,
}

/// A matrix to be packed: its name, its whole shape, and the part of it that is wanted.
struct Part {
    name: String,
    rows: usize,
    columns: usize,
    wanted_rows: Range<usize>,
    wanted_columns: Range<usize>,
}

impl<S: Store> Loader<'_, S> {
    fn layer(
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
        Ok(Layer {
            attention_norm: norm(before, LayerRole::AttentionNorm)?,
            input: self.attention_input(layer)?,
            query_norm: self.head_norm(LayerRole::QueryNorm, layer)?,
            key_norm: self.head_norm(LayerRole::KeyNorm, layer)?,
            rope: of_layer.rope.as_ref().map(|rope| ropes.index(rope, self.config)),
            window: of_layer.window,
            output: self.attention_output(layer)?,
            attention_post_norm: norm(after, LayerRole::AttentionPostNorm)?,
            feed_forward_norm: norm(before && two, LayerRole::FeedForwardNorm)?,
            up: self.up(layer)?,
            down: self.down(layer)?,
            feed_forward_post_norm: norm(after, LayerRole::FeedForwardPostNorm)?,
        })
    }

    fn attention_input(
        &self,
        layer: usize,
    ) -> Result<Projection<S::Matrix, S::Vector>, WeightError> {
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
        self.projection(&parts, attention.input_bias)
    }

    fn attention_output(
        &self,
        layer: usize,
    ) -> Result<Projection<S::Matrix, S::Vector>, WeightError> {
        let (attention, hidden) = (&self.config.attention, self.config.hidden);
        let dim = attention.head_dim;
        let part = Part {
            name: self.name(LayerRole::AttentionOutput, layer)?,
            rows: hidden,
            columns: attention.heads * dim,
            wanted_rows: 0..hidden,
            wanted_columns: self.cut.heads.start * dim..self.cut.heads.end * dim,
        };
        self.projection(&[part], attention.output_bias && self.adds_bias_of_sum())
    }

    fn up(&self, layer: usize) -> Result<Projection<S::Matrix, S::Vector>, WeightError> {
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
        self.projection(&parts, self.config.feed_forward.bias)
    }

    fn down(&self, layer: usize) -> Result<Projection<S::Matrix, S::Vector>, WeightError> {
        let part = Part {
            name: self.name(LayerRole::Down, layer)?,
            rows: self.config.hidden,
            columns: self.config.feed_forward.width,
            wanted_rows: 0..self.config.hidden,
            wanted_columns: self.cut.width.clone(),
        };
        self.projection(&[part], self.config.feed_forward.bias && self.adds_bias_of_sum())
    }

    /// The ranks' partial products are summed: one of them adds the bias.
    fn adds_bias_of_sum(&self) -> bool {
        self.shard.tensor_rank == 0
    }

    fn embedding(&self) -> Result<S::Table, WeightError> {
        let (name, matrix) = self.vocabulary_matrix(ModelRole::Embedding)?;
        self.store.table(&name, matrix)
    }

    fn head(&self) -> Result<Head<S::Matrix, S::Vector>, WeightError> {
        let tied = self.config.tied_embeddings;
        let role = if tied { ModelRole::Embedding } else { ModelRole::Output };
        let (name, matrix) = self.vocabulary_matrix(role)?;
        let view = matrix.view().and_then(|v| v.slice_rows(self.cut.vocabulary.clone()));
        let view = view.map_err(|source| layout(&name, source))?;
        let weight = self.store.matrix(&name, &[view])?;
        let norm = self.names.of_model(ModelRole::OutputNorm);
        let norm = self.norm(&norm.ok_or_else(|| missing(ModelRole::OutputNorm))?)?;
        Ok(Head { norm, weight })
    }

    fn vocabulary_matrix(&self, role: ModelRole) -> Result<(String, MappedMatrix), WeightError> {
        let name = self.names.of_model(role).ok_or_else(|| missing(role))?;
        let name = format!("{name}.weight");
        let (rows, columns) = (self.config.vocabulary, self.config.hidden);
        let matrix = self.tensors.matrix(&name, rows, columns)?;
        Ok((name, matrix))
    }

    fn name(&self, role: LayerRole, layer: usize) -> Result<String, WeightError> {
        self.names.of_layer(role, layer).ok_or_else(|| missing(role))
    }

    fn norm(&self, name: &str) -> Result<Norm<S::Vector>, WeightError> {
        let (kind, hidden) = (self.config.norm.kind, self.config.hidden);
        let vector = |name: String| self.store.vector(&name, self.tensors.vector(&name, hidden)?);
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
        let weight = self.tensors.vector(&name, self.config.attention.head_dim)?;
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
    ) -> Result<Projection<S::Matrix, S::Vector>, WeightError> {
        let open = |part: &Part| {
            self.tensors.matrix(&format!("{}.weight", part.name), part.rows, part.columns)
        };
        let matrices: Vec<MappedMatrix> = parts.iter().map(open).collect::<Result<_, _>>()?;
        let mut views = Vec::with_capacity(parts.len());
        for (part, matrix) in parts.iter().zip(&matrices) {
            let view = cut_view(part, matrix);
            views.push(view.map_err(|source| layout(&format!("{}.weight", part.name), source))?);
        }
        let weight = self.store.matrix(&format!("{}.weight", parts[0].name), &views)?;
        let mut bias = Vec::new();
        for part in parts.iter().filter(|_| with_bias) {
            let whole = self.tensors.vector(&format!("{}.bias", part.name), part.rows)?;
            bias.extend_from_slice(&whole[part.wanted_rows.clone()]);
        }
        let name = format!("{}.bias", parts[0].name);
        let bias = with_bias.then(|| self.store.vector(&name, bias)).transpose()?;
        Ok(Projection { weight, bias })
    }

    fn bytes_total(&self) -> u64 {
        let layers: u64 = self.shard.layers.clone().map(|layer| self.layer_bytes(layer)).sum();
        let (first, last) = (self.shard.first_stage, self.shard.last_stage);
        let whole = [
            (ModelRole::Embedding, first || (last && self.config.tied_embeddings)),
            (ModelRole::Output, last),
            (ModelRole::OutputNorm, last),
        ];
        let names = whole.into_iter().filter(|(_, held)| *held);
        let names = names.filter_map(|(role, _)| self.names.of_model(role));
        layers + names.map(|name| self.tensors.bytes_of(&name)).sum::<u64>()
    }

    fn layer_bytes(&self, layer: usize) -> u64 {
        let names =
            self.names.layer.iter().filter_map(|(role, _)| self.names.of_layer(*role, layer));
        names.map(|name| self.tensors.bytes_of(&name)).sum()
    }
}

pub(super) fn layout(name: &str, source: ShapeError) -> WeightError {
    WeightError::Layout { name: name.to_owned(), source }
}

fn cut_view<'a>(part: &Part, matrix: &'a MappedMatrix) -> Result<MatrixView<'a>, ShapeError> {
    let rows = matrix.view()?.slice_rows(part.wanted_rows.clone())?;
    if part.wanted_columns == (0..part.columns) {
        return Ok(rows);
    }
    rows.slice_columns(part.wanted_columns.clone())
}
