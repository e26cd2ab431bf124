//! What a decoder holds: the weights of its layers, its embedding and its head, as matrices `M` and
//! vectors `V` of whatever computes on them.

use naru_kernels::{Cpu, ShapeError, layer_norm, rms_norm, rms_norm_one_plus};

use super::pass::BLOCKS_PER_LAYER;
use crate::config::NormKind;

/// A norm with its weights.
pub(super) struct Norm<V> {
    pub(super) kind: NormKind,
    pub(super) epsilon: f32,
    pub(super) weight: V,
    /// Of layer norms; elsewhere none.
    pub(super) bias: Option<V>,
}

impl Norm<Vec<f32>> {
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
pub(super) struct Projection<M, V> {
    pub(super) weight: M,
    pub(super) bias: Option<V>,
}

/// One layer's weights, as far as this rank holds them. A norm that the placement does not have is
/// absent.
pub(super) struct Layer<M, V> {
    pub(super) attention_norm: Option<Norm<V>>,
    /// Queries, keys and values.
    pub(super) input: Projection<M, V>,
    pub(super) query_norm: Option<Norm<V>>,
    pub(super) key_norm: Option<Norm<V>>,
    /// Index of the layer's rope in the tables.
    pub(super) rope: Option<usize>,
    pub(super) window: Option<usize>,
    pub(super) output: Projection<M, V>,
    /// Columns of `output` in front of this rank's heads: the begin of a block that heads of the
    /// rank before share. They and those behind the heads read zeros.
    pub(super) output_lead: usize,
    pub(super) attention_post_norm: Option<Norm<V>>,
    pub(super) feed_forward_norm: Option<Norm<V>>,
    /// Gate and up, or up alone.
    pub(super) up: Projection<M, V>,
    pub(super) down: Projection<M, V>,
    pub(super) feed_forward_post_norm: Option<Norm<V>>,
}

impl<M, V> Layer<M, V> {
    /// The norm of what `block`, as the pass counts them, returned.
    pub(super) fn post_norm(&self, block: usize) -> Option<&Norm<V>> {
        let norms = [&self.attention_post_norm, &self.feed_forward_post_norm];
        norms[block % BLOCKS_PER_LAYER].as_ref()
    }

    /// The last projection of `block`. Each rank has its bias: processors add it to the sum, of
    /// devices the first to its part.
    pub(super) fn last(&self, block: usize) -> &Projection<M, V> {
        [&self.output, &self.down][block % BLOCKS_PER_LAYER]
    }
}

/// The last norm and this rank's rows of the output head.
pub(super) struct Head<M, V> {
    pub(super) norm: Norm<V>,
    pub(super) weight: M,
}
