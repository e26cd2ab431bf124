//! Load: a shard's weights, from the mapped files into the layout of what computes on them.
//!
//! ```text
//! mapped file ── the shard's rows and columns ──▶ store ── a layer is done: its pages are let go
//! ```
//!
//! Nothing else of a tensor is touched than what the shard holds of it, so what a rank reads and
//! what it keeps fall with the number of ranks.

mod loader;

use std::sync::Arc;

use naru_kernels::{
    ComputePool, DType, MatrixView, PackedMatrix, ShapeError, Stretches, dequantise,
};
use thiserror::Error;

use super::Decoder;
use super::forward::Scratch;
use super::layer::{Head, Layer};
use super::positions::RopeTables;
use super::shard::{Cut, Shard, ShardError, Splits};
use crate::config::{LayerRole, ModelConfig, NameTable};
use crate::model::ModelFiles;
use crate::weights::{MappedMatrix, Tensors, WeightError};
use loader::Loader;

/// How far a load has come. Bytes are those in the files that the shard needs: of a tensor that is
/// cut, its part.
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

impl<'a> Source<'a> {
    /// Of a checkpoint.
    pub(super) fn of(files: &'a ModelFiles) -> Self {
        let (config, names) = (files.config(), files.family().names);
        Self { config, names, tensors: files.tensors() }
    }

    /// How the model can be cut.
    pub(super) fn splits(&self) -> Splits {
        let layers = 0..self.config.layers.len();
        let names = layers.filter_map(|layer| self.names.of_layer(LayerRole::Down, layer));
        let blocks = names.map(|name| self.tensors.block_elements(&format!("{name}.weight")));
        Splits::new(self.config, blocks.max().unwrap_or(1))
    }
}

/// Where weights are laid out to be computed on.
pub(super) trait Store {
    /// A matrix there.
    type Matrix;
    /// A vector there.
    type Vector;
    /// An embedding table there.
    type Table;

    /// Lays out `views` under each other, their rows to be summed in `stretches` where that is done
    /// so. `name` is for errors.
    fn matrix(
        &self,
        name: &str,
        views: &[MatrixView<'_>],
        stretches: Stretches,
    ) -> Result<Self::Matrix, WeightError>;

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

    fn matrix(
        &self,
        name: &str,
        views: &[MatrixView<'_>],
        stretches: Stretches,
    ) -> Result<PackedMatrix, WeightError> {
        let packed = if self.in_floats {
            pack_floats(views, self.pool)
        } else {
            PackedMatrix::pack_stacked(views, self.pool)
        };
        packed
            .and_then(|packed| packed.in_stretches(stretches))
            .map_err(|source| layout(name, source))
    }

    fn vector(&self, _name: &str, values: Vec<f32>) -> Result<Vec<f32>, WeightError> {
        Ok(values)
    }

    fn table(&self, _name: &str, matrix: MappedMatrix) -> Result<MappedMatrix, WeightError> {
        Ok(matrix)
    }
}

/// Keeps nothing: what loads into it has told how much it would read.
struct Nowhere;

impl Store for Nowhere {
    type Matrix = ();
    type Vector = ();
    type Table = ();

    fn matrix(
        &self,
        _name: &str,
        _views: &[MatrixView<'_>],
        _stretches: Stretches,
    ) -> Result<(), WeightError> {
        Ok(())
    }

    fn vector(&self, _name: &str, _values: Vec<f32>) -> Result<(), WeightError> {
        Ok(())
    }

    fn table(&self, _name: &str, _matrix: MappedMatrix) -> Result<(), WeightError> {
        Ok(())
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
    let cut = shard.cut(&source.splits()).map_err(LoadError::Shard)?;
    let mut done = LoadProgress::default();
    let counted = all(&Loader::new(source, shard, &cut, &Nowhere), &mut |bytes| {
        done.bytes_total = bytes;
    });
    counted.map_err(LoadError::Weight)?;
    progress(done);
    let loaded = all(&Loader::new(source, shard, &cut, store), &mut |bytes| {
        done.bytes_done = bytes;
        progress(done);
    });
    let Parts { embedding, layers, head, ropes } = loaded.map_err(LoadError::Weight)?;
    Ok(Loaded { cut, embedding, layers, head, ropes })
}

struct Parts<S: Store> {
    embedding: Option<S::Table>,
    layers: Vec<Layer<S::Matrix, S::Vector>>,
    head: Option<Head<S::Matrix, S::Vector>>,
    ropes: RopeTables,
}

/// Everything of a shard; `read` is told the bytes so far after each part.
fn all<S: Store>(
    loader: &Loader<'_, S>,
    read: &mut dyn FnMut(u64),
) -> Result<Parts<S>, WeightError> {
    let mut ropes = RopeTables::new();
    let mut layers = Vec::new();
    for index in loader.shard.layers() {
        layers.push(loader.layer(index, &mut ropes)?);
        read(loader.bytes_read());
    }
    let embedding = loader.shard.is_first_stage().then(|| loader.embedding()).transpose()?;
    let head = loader.shard.is_last_stage().then(|| loader.head()).transpose()?;
    read(loader.bytes_read());
    Ok(Parts { embedding, layers, head, ropes })
}

pub(super) fn layout(name: &str, source: ShapeError) -> WeightError {
    WeightError::Layout { name: name.to_owned(), source }
}
