//! The launches of a step, from sizes and places: nothing here runs anything.

use std::ops::Range;

use naru_kernels::cuda::{
    AttentionTask, CapLogitsTask, DeviceMatrix, DeviceNorm, DeviceNormKind, DevicePointer,
    DeviceRope, Element, EmbedTask, GateTask, Launch, LinearOutput, LinearTask, ResidualNormTask,
    RopeKvTask, cap_logits, decode_attention, embed, gate, linear, prefill_attention,
    residual_norm, rope_kv,
};
use naru_kernels::{AttentionShape, KV_BLOCK_TOKENS, ShapeError};

use super::super::StepError;
use super::super::forward::op;
use super::super::layer::{Head, Layer, Norm, Projection};
use super::plan::{Places, StepPlan};
use super::store::DeviceWeight;
use crate::config::{ModelConfig, NormKind};

pub(super) type DeviceLayer = Layer<DeviceWeight, DevicePointer>;

/// A model on a device, and the buffers of its steps.
pub(super) struct DeviceModel {
    pub(super) config: ModelConfig,
    pub(super) element: Element,
    pub(super) embedding: DeviceMatrix,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) head: Head<DeviceWeight, DevicePointer>,
    pub(super) ropes: Vec<DeviceRope>,
    pub(super) buffers: Buffers,
    /// `[layers][keys, values][blocks, kv_heads, 16, head_dim]`.
    pub(super) kv: DevicePointer,
    pub(super) kv_blocks: usize,
    /// Rows of logits that there is room for at once.
    pub(super) logit_rows_max: usize,
}

/// Where the values of a step lie. Sizes are those of the largest step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buffers {
    /// What [`StepPlan::write`] wrote, and then what sampling reads.
    pub(super) inputs: DevicePointer,
    /// f32 `[tokens, hidden]`.
    pub(super) stream: DevicePointer,
    /// What a block reads, `[tokens, hidden]`.
    pub(super) normed: DevicePointer,
    /// Queries, keys and values, or gate and up.
    pub(super) projected: DevicePointer,
    /// `[tokens, heads, head_dim]`.
    pub(super) queries: DevicePointer,
    /// What a block's last projection reads.
    pub(super) block_input: DevicePointer,
    /// What a block returns, `[tokens, hidden]`.
    pub(super) block: DevicePointer,
    /// Partial results of attention.
    pub(super) scratch: DevicePointer,
    /// f32 `[logit rows, vocabulary]`.
    pub(super) logits: DevicePointer,
    /// f32 `[vocabulary]`: logits that sampling changes meanwhile.
    pub(super) saved: DevicePointer,
    /// What sampling found, `RESULT_WORDS` for each row.
    pub(super) results: DevicePointer,
}

/// What a block returned and is not yet in the stream, and the norm that it gets first.
#[derive(Clone, Copy)]
struct Pending {
    block: DevicePointer,
    post: Option<DeviceNorm>,
}

const NOTHING: Pending = Pending { block: DevicePointer::NULL, post: None };

impl DeviceModel {
    /// The launches of a step of this plan, up to the logits of as many rows as there is room for.
    pub(super) fn launches(&self, plan: &StepPlan) -> Result<Vec<Launch>, StepError> {
        let step = Step { model: self, plan, places: plan.places() };
        let mut launches = Vec::with_capacity(self.layers.len() * 9 + 4);
        step.embed(&mut launches)?;
        let mut pending = NOTHING;
        for (index, layer) in self.layers.iter().enumerate() {
            step.attention(index, layer, pending, &mut launches)?;
            pending = step.feed_forward(layer, &mut launches)?;
        }
        let rows = 0..plan.logit_rows.min(self.logit_rows_max);
        if !rows.is_empty() {
            step.logits(pending, rows, &mut launches)?;
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
        let pending = self.layers.last().map_or(NOTHING, |layer| step.fed_forward(layer));
        step.logits(pending, rows, &mut launches)?;
        Ok(launches)
    }

    fn keys_and_values(&self, layer: usize) -> (DevicePointer, DevicePointer) {
        let attention = &self.config.attention;
        let of_block = KV_BLOCK_TOKENS * attention.kv_heads * attention.head_dim * Element::BYTES;
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
        let task = EmbedTask {
            table: self.model.embedding,
            tokens: self.input(self.places.tokens),
            rows: self.plan.tokens,
            multiplier: self.model.config.multipliers.embedding,
            output: self.model.buffers.stream,
        };
        launches.push(embed(&task).map_err(op("embedding"))?);
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
        let attends = &model.config.attention;
        let pre = layer.attention_norm.as_ref().map(device_norm);
        launches.push(self.read_stream(pending, pre, buffers.normed)?);
        self.project(&layer.input, buffers.normed, buffers.projected, launches)
            .map_err(op("queries, keys and values"))?;
        let (keys, values) = model.keys_and_values(index);
        let turned = rope_kv(&RopeKvTask {
            element: model.element,
            rows: self.plan.tokens,
            heads: attends.heads,
            kv_heads: attends.kv_heads,
            head_dim: attends.head_dim,
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
        let shape = AttentionShape {
            heads: attends.heads,
            kv_heads: attends.kv_heads,
            head_dim: attends.head_dim,
            scale: attends.scale,
            window: layer.window,
            softcap: attends.softcap,
        };
        self.attend(&shape, (keys, values), launches).map_err(op("attention"))?;
        self.project(&layer.output, buffers.block_input, buffers.block, launches)
            .map_err(op("the sum of a block"))
    }

    fn attend(
        &self,
        shape: &AttentionShape,
        (keys, values): (DevicePointer, DevicePointer),
        launches: &mut Vec<Launch>,
    ) -> Result<(), ShapeError> {
        let buffers = &self.model.buffers;
        let task = AttentionTask {
            element: self.model.element,
            shape,
            queries: buffers.queries,
            keys,
            values,
            output: buffers.block_input,
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
        Ok(())
    }

    /// The second block of a layer; what it returns is not in the stream yet.
    fn feed_forward(
        &self,
        layer: &DeviceLayer,
        launches: &mut Vec<Launch>,
    ) -> Result<Pending, StepError> {
        let (model, buffers) = (self.model, &self.model.buffers);
        let attended = Pending {
            block: buffers.block,
            post: layer.attention_post_norm.as_ref().map(device_norm),
        };
        // In parallel both blocks read what the first one read.
        let reads_stream = layer.feed_forward_norm.is_some() || layer.attention_norm.is_none();
        let output = if reads_stream { buffers.normed } else { DevicePointer::NULL };
        let pre = layer.feed_forward_norm.as_ref().map(device_norm);
        launches.push(self.read_stream(attended, pre, output)?);
        self.project(&layer.up, buffers.normed, buffers.projected, launches)
            .map_err(op("gate and up"))?;
        let feed_forward = &model.config.feed_forward;
        let gated = gate(&GateTask {
            element: model.element,
            kind: feed_forward.activation,
            is_gated: feed_forward.gated,
            rows: self.plan.tokens,
            width: feed_forward.width,
            input: buffers.projected,
            output: buffers.block_input,
        });
        launches.push(gated.map_err(op("the activation"))?);
        self.project(&layer.down, buffers.block_input, buffers.block, launches)
            .map_err(op("the sum of a block"))?;
        Ok(self.fed_forward(layer))
    }

    /// What the second block of a layer returned.
    fn fed_forward(&self, layer: &DeviceLayer) -> Pending {
        let post = layer.feed_forward_post_norm.as_ref().map(device_norm);
        Pending { block: self.model.buffers.block, post }
    }

    fn logits(
        &self,
        pending: Pending,
        rows: Range<usize>,
        launches: &mut Vec<Launch>,
    ) -> Result<(), StepError> {
        let (model, buffers) = (self.model, &self.model.buffers);
        let picked = residual_norm(&ResidualNormTask {
            element: model.element,
            rows: rows.len(),
            width: model.config.hidden,
            stream: buffers.stream,
            block: pending.block,
            post: pending.post,
            factor: model.config.multipliers.residual,
            pick: self.input(self.places.picks + rows.start),
            pre: Some(device_norm(&model.head.norm)),
            output: buffers.normed,
        });
        launches.push(picked.map_err(op("the last norm"))?);
        let weights = Weights {
            matrices: &model.head.weight,
            bias: DevicePointer::NULL,
            kind: LinearOutput::F32,
        };
        self.multiply(&weights, rows.len(), (buffers.normed, buffers.logits), launches)
            .map_err(op("logits"))?;
        let (factor, cap) = (model.config.multipliers.logit, model.config.final_softcap);
        if factor != 1.0 || cap.is_some() {
            let scaled = cap_logits(&CapLogitsTask {
                rows: rows.len(),
                vocabulary: model.config.vocabulary,
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
        let weights = Weights {
            matrices: &projection.weight,
            bias: projection.bias.unwrap_or(DevicePointer::NULL),
            kind: LinearOutput::Element,
        };
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
