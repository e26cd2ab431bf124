//! What a decoder holds in memory: the weights of its layers, its embedding and its head.

use naru_kernels::{Cpu, PackedMatrix, ShapeError, layer_norm, rms_norm, rms_norm_one_plus};

use crate::config::NormKind;
use crate::weights::MappedMatrix;

/// A norm with its weights.
pub(super) struct Norm {
    pub(super) kind: NormKind,
    pub(super) epsilon: f32,
    pub(super) weight: Vec<f32>,
    /// Of layer norms; elsewhere none.
    pub(super) bias: Option<Vec<f32>>,
}

impl Norm {
    /// Norms each stretch of `x` that is as long as the weights: rows, or the heads of a row.
    pub(super) fn each(&self, cpu: Cpu, x: &[f32], out: &mut [f32]) {
        let width = self.weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            self.one(cpu, x, out).expect("stretches are as long as the weights");
        }
    }

    fn one(&self, cpu: Cpu, x: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
        match self.kind {
            NormKind::Rms => rms_norm(cpu, x, &self.weight, self.epsilon, out),
            NormKind::RmsPlusOne => rms_norm_one_plus(cpu, x, &self.weight, self.epsilon, out),
            NormKind::Layer => layer_norm(x, &self.weight, self.bias.as_deref(), self.epsilon, out),
        }
    }
}

/// A projection with its bias. The projections that read one input are stacked under each other.
pub(super) struct Projection {
    pub(super) weight: PackedMatrix,
    pub(super) bias: Option<Vec<f32>>,
}

/// One layer's weights, as far as this rank holds them. A norm that the placement does not have is
/// absent.
pub(super) struct Layer {
    pub(super) attention_norm: Option<Norm>,
    /// Queries, keys and values.
    pub(super) input: Projection,
    pub(super) query_norm: Option<Norm>,
    pub(super) key_norm: Option<Norm>,
    /// Index of the layer's rope in the tables.
    pub(super) rope: Option<usize>,
    pub(super) window: Option<usize>,
    pub(super) output: Projection,
    pub(super) attention_post_norm: Option<Norm>,
    pub(super) feed_forward_norm: Option<Norm>,
    /// Gate and up, or up alone.
    pub(super) up: Projection,
    pub(super) down: Projection,
    pub(super) feed_forward_post_norm: Option<Norm>,
}

/// The embedding table, where the file has it.
pub(super) struct Embedding {
    pub(super) table: MappedMatrix,
}

/// The last norm and this rank's rows of the output head.
pub(super) struct Head {
    pub(super) norm: Norm,
    pub(super) weight: PackedMatrix,
}
