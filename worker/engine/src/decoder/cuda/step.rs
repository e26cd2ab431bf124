//! The launches of a step, from sizes and places: nothing here runs anything.

use std::ops::Range;

use naru_kernels::cuda::{
    AttentionTask, CapLogitsTask, DeviceMatrix, DeviceNorm, DeviceNormKind, DevicePointer,
    DeviceRope, Element, EmbedTask, GateTask, Launch, LinearOutput, LinearTask, ResidualNormTask,
    RopeKvTask, WidenTask, cap_logits, decode_attention, embed, gate, linear, prefill_attention,
    residual_norm, rope_kv, widen_heads,
};
use naru_kernels::{AttentionShape, KV_BLOCK_TOKENS, ShapeError};

use super::super::forward::op;
use super::super::layer::{Head, Layer, Norm, Projection};
use super::super::pass::BLOCKS_PER_LAYER;
use super::super::shard::Cut;
use super::super::{Shard, StepError};
use super::buffers::Buffers;
use super::plan::{Places, StepPlan};
use super::store::DeviceWeight;
use crate::config::{ModelConfig, NormKind};

pub(super) type DeviceLayer = Layer<DeviceWeight, DevicePointer>;

/// What a rank holds of a model on a device, and the buffers of its steps.
pub(super) struct DeviceModel {
    pub(super) config: ModelConfig,
    pub(super) shard: Shard,
    pub(super) cut: Cut,
    pub(super) element: Element,
    pub(super) embedding: Option<DeviceMatrix>,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) head: Option<Head<DeviceWeight, DevicePointer>>,
    pub(super) ropes: Vec<DeviceRope>,
    pub(super) buffers: Buffers,
    /// `[layers][keys, values][blocks, kv_heads, 16, head_dim]`.
    pub(super) kv: DevicePointer,
    pub(super) kv_blocks: usize,
    /// Rows of logits that there is room for at once.
    pub(super) logit_rows_max: usize,
}

/// What a block returned and is not yet in the stream, and the norm that it gets first.
#[derive(Clone, Copy)]
struct Pending {
    block: DevicePointer,
    post: Option<DeviceNorm>,
}

const NOTHING: Pending = Pending { block: DevicePointer::NULL, post: None };

impl DeviceModel {
    /// The first place of a step.
    pub(super) const EMBED: usize = 0;

    /// The place of a block, one behind the other.
    pub(super) fn place(block: usize) -> usize {
        Self::EMBED + 1 + block
    }

    /// The last place: logits, or the last block's result into the stream.
    pub(super) fn end(&self) -> usize {
        Self::place(BLOCKS_PER_LAYER * self.layers.len())
    }

    /// The launches of a step of this plan at these places; logits are those of as many rows as
    /// there is room for.
    pub(super) fn launches(
        &self,
        plan: &StepPlan,
        places: Range<usize>,
    ) -> Result<Vec<Launch>, StepError> {
        let step = Step { model: self, plan, places: plan.places() };
        let mut launches = Vec::with_capacity(places.len() * 5 + 4);
        for place in places {
            match place.checked_sub(Self::place(0)) {
                None => step.embed(&mut launches)?,
                Some(_) if place == self.end() => step.end(&mut launches)?,
                Some(block) => step.block(block, &mut launches)?,
            }
        }
        Ok(launches)
    }

    /// What comes after `launches`: logits of other rows, in the place of those before.
    pub(super) fn logits(
        &self,
        plan: &StepPlan,
        rows: Range<usize>,
    ) -> Result<Vec<Launch>, StepError> {
        let step = Step { model: self, plan, places: plan.places() };
        let mut launches = Vec::new();
        step.logits(rows, &mut launches)?;
        Ok(launches)
    }

    /// Ranks that share each block.
    pub(super) fn tensor_ranks(&self) -> usize {
        self.shard.parallelism().tensor()
    }

    /// This rank's heads.
    pub(super) fn attention_shape(&self, window: Option<usize>) -> AttentionShape {
        let attends = &self.config.attention;
        AttentionShape {
            heads: self.cut.heads.len(),
            kv_heads: self.cut.kv_heads.len(),
            head_dim: attends.head_dim,
            scale: attends.scale,
            window,
            softcap: attends.softcap,
        }
    }

    /// Columns that the last projection of attention reads: this rank's heads, and others' where
    /// they share a block of the format.
    pub(super) fn output_columns(layer: &DeviceLayer) -> usize {
        layer.output.weight.first().map_or(0, |matrix| matrix.columns)
    }

    fn keys_and_values(&self, layer: usize) -> (DevicePointer, DevicePointer) {
        let heads = self.attention_shape(None);
        let of_block = KV_BLOCK_TOKENS * heads.kv_heads * heads.head_dim * Element::BYTES;
        let half = of_block * self.kv_blocks;
        (self.kv.offset(2 * layer * half), self.kv.offset((2 * layer + 1) * half))
    }
}

struct Step<'a> {
    model: &'a DeviceModel,
    plan: &'a StepPlan,
    places: Places,
}

impl Step<'_> {
    fn input(&self, word: usize) -> DevicePointer {
        self.model.buffers.inputs.offset(word * size_of::<u32>())
    }

    fn embed(&self, launches: &mut Vec<Launch>) -> Result<(), StepError> {
        let table = self.model.embedding.expect("the first stage has an embedding table");
        let task = EmbedTask {
            table,
            tokens: self.input(self.places.tokens),
            rows: self.plan.tokens,
            multiplier: self.model.config.multipliers.embedding,
            output: self.model.buffers.stream,
        };
        launches.push(embed(&task).map_err(op("embedding"))?);
        Ok(())
    }

    fn block(&self, block: usize, launches: &mut Vec<Launch>) -> Result<(), StepError> {
        let pending = self.pending(block, launches)?;
        let index = block / BLOCKS_PER_LAYER;
        let layer = &self.model.layers[index];
        if block.is_multiple_of(BLOCKS_PER_LAYER) {
            self.attention(index, layer, pending, launches)
        } else {
            self.feed_forward(layer, pending, launches)
        }
    }

    /// What the block before `block` returned: of tensor ranks the sum, rounded as one rank's is.
    fn pending(&self, block: usize, launches: &mut Vec<Launch>) -> Result<Pending, StepError> {
        let Some(before) = block.checked_sub(1) else { return Ok(NOTHING) };
        let (model, buffers) = (self.model, &self.model.buffers);
        if model.tensor_ranks() > 1 {
            let rounded = residual_norm(&ResidualNormTask {
                element: model.element,
                rows: self.plan.tokens,
                width: model.config.hidden,
                stream: buffers.partial,
                block: DevicePointer::NULL,
                post: None,
                factor: 1.0,
                pick: DevicePointer::NULL,
                pre: None,
                output: buffers.block,
            });
            launches.push(rounded.map_err(op("the sum of a block"))?);
        }
        let layer = &model.layers[before / BLOCKS_PER_LAYER];
        let post = layer.post_norm(before).map(device_norm);
        Ok(Pending { block: buffers.block, post })
    }

    /// Logits; on a stage that makes none, the whole stream.
    fn end(&self, launches: &mut Vec<Launch>) -> Result<(), StepError> {
        let rows = 0..self.plan.logit_rows.min(self.model.logit_rows_max);
        if self.model.head.is_none() {
            let pending = self.pending(BLOCKS_PER_LAYER * self.model.layers.len(), launches)?;
            launches.push(self.read_stream(pending, None, DevicePointer::NULL)?);
        } else if !rows.is_empty() {
            self.logits(rows, launches)?;
        }
        Ok(())
    }

    /// Adds what is pending to the stream, and reads from it what the next block gets, if anything.
    fn read_stream(
        &self,
        pending: Pending,
        pre: Option<DeviceNorm>,
        output: DevicePointer,
    ) -> Result<Launch, StepError> {
        let (model, buffers) = (self.model, &self.model.buffers);
        residual_norm(&ResidualNormTask {
            element: model.element,
            rows: self.plan.tokens,
            width: model.config.hidden,
            stream: buffers.stream,
            block: pending.block,
            post: pending.post,
            factor: model.config.multipliers.residual,
            pick: DevicePointer::NULL,
            pre,
            output,
        })
        .map_err(op("the norm before a block"))
    }

    fn attention(
        &self,
        index: usize,
        layer: &DeviceLayer,
        pending: Pending,
        launches: &mut Vec<Launch>,
    ) -> Result<(), StepError> {
        let (model, buffers) = (self.model, &self.model.buffers);
        let shape = model.attention_shape(layer.window);
        let pre = layer.attention_norm.as_ref().map(device_norm);
        launches.push(self.read_stream(pending, pre, buffers.normed)?);
        self.project(&layer.input, buffers.normed, buffers.projected, launches)
            .map_err(op("queries, keys and values"))?;
        let (keys, values) = model.keys_and_values(index);
        let turned = rope_kv(&RopeKvTask {
            element: model.element,
            rows: self.plan.tokens,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            input: buffers.projected,
            positions: self.input(self.places.positions),
            slots: self.input(self.places.slots),
            query_norm: layer.query_norm.as_ref().map(device_norm),
            key_norm: layer.key_norm.as_ref().map(device_norm),
            rope: layer.rope.map(|rope| model.ropes[rope]),
            queries: buffers.queries,
            keys,
            values,
        });
        launches.push(turned.map_err(op("the keys and values"))?);
        self.attend(&shape, layer, (keys, values), launches).map_err(op("attention"))?;
        self.close(&layer.output, launches)
    }

    /// Attention of this rank's heads, as the last projection reads it.
    fn attend(
        &self,
        shape: &AttentionShape,
        layer: &DeviceLayer,
        (keys, values): (DevicePointer, DevicePointer),
        launches: &mut Vec<Launch>,
    ) -> Result<(), ShapeError> {
        let buffers = &self.model.buffers;
        let (width, columns) = (shape.heads * shape.head_dim, DeviceModel::output_columns(layer));
        let is_widened = width < columns;
        let task = AttentionTask {
            element: self.model.element,
            shape,
            queries: buffers.queries,
            keys,
            values,
            output: if is_widened { buffers.projected } else { buffers.block_input },
            spans: self.input(self.places.decodes),
            tables: self.input(self.places.tables),
            count: self.plan.decodes,
            rows_max: 1,
            keys_max: self.plan.keys_max,
            scratch: buffers.scratch,
        };
        if self.plan.decodes > 0 {
            launches.extend(decode_attention(&task)?);
        }
        if self.plan.prefills > 0 {
            launches.push(prefill_attention(&AttentionTask {
                spans: self.input(self.places.prefills),
                count: self.plan.prefills,
                rows_max: self.plan.rows_max,
                ..task
            })?);
        }
        if is_widened {
            launches.push(widen_heads(&WidenTask {
                rows: self.plan.tokens,
                width,
                lead: layer.output_lead,
                columns,
                input: buffers.projected,
                output: buffers.block_input,
            })?);
        }
        Ok(())
    }

    fn feed_forward(
        &self,
        layer: &DeviceLayer,
        pending: Pending,
        launches: &mut Vec<Launch>,
    ) -> Result<(), StepError> {
        let (model, buffers) = (self.model, &self.model.buffers);
        // In parallel both blocks read what the first one read.
        let reads_stream = layer.feed_forward_norm.is_some() || layer.attention_norm.is_none();
        let output = if reads_stream { buffers.normed } else { DevicePointer::NULL };
        let pre = layer.feed_forward_norm.as_ref().map(device_norm);
        launches.push(self.read_stream(pending, pre, output)?);
        self.project(&layer.up, buffers.normed, buffers.projected, launches)
            .map_err(op("gate and up"))?;
        let feed_forward = &model.config.feed_forward;
        let gated = gate(&GateTask {
            element: model.element,
            kind: feed_forward.activation,
            is_gated: feed_forward.gated,
            rows: self.plan.tokens,
            width: model.cut.width.len(),
            input: buffers.projected,
            output: buffers.block_input,
        });
        launches.push(gated.map_err(op("the activation"))?);
        self.close(&layer.down, launches)
    }

    /// A block's last projection, beside the stream: its result, or this rank's part of it.
    fn close(
        &self,
        projection: &Projection<DeviceWeight, DevicePointer>,
        launches: &mut Vec<Launch>,
    ) -> Result<(), StepError> {
        let Buffers { block_input, block, partial, .. } = self.model.buffers;
        let (kind, output) = match self.model.tensor_ranks() {
            1 => (LinearOutput::Element, block),
            _ => (LinearOutput::F32, partial),
        };
        let mut weights = Weights::of(projection, kind);
        // The parts of ranks are summed: one of them has the bias.
        if self.model.shard.tensor_rank() > 0 {
            weights.bias = DevicePointer::NULL;
        }
        self.multiply(&weights, self.plan.tokens, (block_input, output), launches)
            .map_err(op("the sum of a block"))
    }

    fn logits(&self, rows: Range<usize>, launches: &mut Vec<Launch>) -> Result<(), StepError> {
        let (model, buffers) = (self.model, &self.model.buffers);
        let head = model.head.as_ref().expect("the last stage has a head");
        let pending = self.pending(BLOCKS_PER_LAYER * model.layers.len(), launches)?;
        let picked = residual_norm(&ResidualNormTask {
            element: model.element,
            rows: rows.len(),
            width: model.config.hidden,
            stream: buffers.stream,
            block: pending.block,
            post: pending.post,
            factor: model.config.multipliers.residual,
            pick: self.input(self.places.picks + rows.start),
            pre: Some(device_norm(&head.norm)),
            output: buffers.normed,
        });
        launches.push(picked.map_err(op("the last norm"))?);
        let weights =
            Weights { matrices: &head.weight, bias: DevicePointer::NULL, kind: LinearOutput::F32 };
        self.multiply(&weights, rows.len(), (buffers.normed, buffers.logits), launches)
            .map_err(op("logits"))?;
        let (factor, cap) = (model.config.multipliers.logit, model.config.final_softcap);
        if factor != 1.0 || cap.is_some() {
            let scaled = cap_logits(&CapLogitsTask {
                rows: rows.len(),
                vocabulary: model.cut.vocabulary.len(),
                multiplier: factor,
                cap: cap.unwrap_or(0.0),
                logits: buffers.logits,
            });
            launches.push(scaled.map_err(op("logits"))?);
        }
        Ok(())
    }

    fn project(
        &self,
        projection: &Projection<DeviceWeight, DevicePointer>,
        input: DevicePointer,
        output: DevicePointer,
        launches: &mut Vec<Launch>,
    ) -> Result<(), ShapeError> {
        let weights = Weights::of(projection, LinearOutput::Element);
        self.multiply(&weights, self.plan.tokens, (input, output), launches)
    }

    /// A product with each matrix of a projection, whose outputs follow one another in each row.
    fn multiply(
        &self,
        weights: &Weights<'_>,
        tokens: usize,
        (input, output): (DevicePointer, DevicePointer),
        launches: &mut Vec<Launch>,
    ) -> Result<(), ShapeError> {
        let value_bytes = match weights.kind {
            LinearOutput::Element => Element::BYTES,
            LinearOutput::F32 => size_of::<f32>(),
        };
        let output_stride = weights.matrices.iter().map(|matrix| matrix.rows).sum();
        let mut first_row = 0;
        for matrix in weights.matrices {
            let bias = match weights.bias {
                DevicePointer::NULL => DevicePointer::NULL,
                bias => bias.offset(first_row * size_of::<f32>()),
            };
            launches.push(linear(&LinearTask {
                element: self.model.element,
                weight: *matrix,
                input,
                tokens,
                bias,
                output: output.offset(first_row * value_bytes),
                output_kind: weights.kind,
                output_stride,
            })?);
            first_row += matrix.rows;
        }
        Ok(())
    }
}

/// What a product is made with.
struct Weights<'a> {
    matrices: &'a [DeviceMatrix],
    bias: DevicePointer,
    kind: LinearOutput,
}

impl<'a> Weights<'a> {
    fn of(projection: &'a Projection<DeviceWeight, DevicePointer>, kind: LinearOutput) -> Self {
        let bias = projection.bias.unwrap_or(DevicePointer::NULL);
        Self { matrices: &projection.weight, bias, kind }
    }
}

fn device_norm(norm: &Norm<DevicePointer>) -> DeviceNorm {
    DeviceNorm {
        kind: match norm.kind {
            NormKind::Rms => DeviceNormKind::Rms,
            NormKind::RmsPlusOne => DeviceNormKind::RmsPlusOne,
            NormKind::Layer => DeviceNormKind::Layer,
        },
        epsilon: norm.epsilon,
        weight: norm.weight,
        bias: norm.bias.unwrap_or(DevicePointer::NULL),
    }
}
