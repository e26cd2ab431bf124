//! What a piece of a step is on the processor.

use naru_kernels::{
    Activations, AttentionShape, AttentionSpan, ComputePool, KvPool, MatmulOutput, PackedMatrix,
    ShapeError, add, add_to_rows, attention, gate, matmul, softcap,
};

use super::collective::narrow;
use super::forward::{Scratch, embed, op, rows, scale};
use super::layer::{Head, Layer, Norm, Projection};
use super::pass::{BLOCKS_PER_LAYER, Pass};
use super::positions::{RopeTable, RopeTables};
use super::shard::Cut;
use super::{Collective, StepError};
use crate::config::ModelConfig;
use crate::engine::Batch;
use crate::weights::MappedMatrix;

type HostLayer = Layer<PackedMatrix, Vec<f32>>;
type HostProjection = Projection<PackedMatrix, Vec<f32>>;

/// One piece of a step on its way through the layers.
pub(super) struct Step<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) pool: &'a ComputePool,
    /// What this rank holds of each layer.
    pub(super) cut: &'a Cut,
    pub(super) embedding: Option<&'a MappedMatrix>,
    pub(super) layers: &'a [HostLayer],
    pub(super) head: Option<&'a Head<PackedMatrix, Vec<f32>>>,
    /// Filled for the batch's positions.
    pub(super) ropes: &'a RopeTables,
    pub(super) batch: &'a Batch,
    pub(super) spans: Vec<AttentionSpan<'a>>,
    /// Tensor ranks that share each block.
    pub(super) ranks: usize,
    pub(super) kv: &'a mut KvPool,
    pub(super) scratch: &'a mut Scratch,
}

impl Pass for Step<'_> {
    fn embed(&mut self) -> Result<(), StepError> {
        let embedding = self.embedding.expect("the first stage has an embedding table");
        let table = embedding.view().map_err(op("embedding"))?;
        let (first, factor) = (self.cut.vocabulary.start, self.config.multipliers.embedding);
        embed(&table, first, self.batch, factor, self.pool, &mut self.scratch.stream);
        Ok(())
    }

    fn sum_stream(&mut self, collective: &mut dyn Collective) -> Result<(), StepError> {
        let s = &mut *self.scratch;
        Ok(collective.all_reduce_floats(&mut s.stream, &mut s.part)?)
    }

    fn receive_stream(
        &mut self,
        from: usize,
        collective: &mut dyn Collective,
    ) -> Result<(), StepError> {
        Ok(collective.receive(from, &mut self.scratch.stream)?)
    }

    fn block(&mut self, block: usize) -> Result<(), StepError> {
        let (layers, index) = (self.layers, block / BLOCKS_PER_LAYER);
        let layer = &layers[index];
        if block.is_multiple_of(BLOCKS_PER_LAYER) {
            self.attention(layer, index)?;
        } else {
            self.feed_forward(layer)?;
        }
        self.close(layer, block).map_err(op("the sum of a block"))
    }

    fn sum_block(&mut self, collective: &mut dyn Collective) -> Result<(), StepError> {
        let s = &mut *self.scratch;
        collective.all_reduce_sum(&mut s.part)?;
        s.block.resize(s.part.len(), 0.0);
        narrow(&s.part, &mut s.block);
        Ok(())
    }

    fn add_block(&mut self, block: usize) -> Result<(), StepError> {
        let layer = &self.layers[block / BLOCKS_PER_LAYER];
        if self.is_added_at_once(layer, block) {
            return Ok(());
        }
        let (pool, hidden, s) = (self.pool, self.config.hidden, &mut *self.scratch);
        let factor = self.config.multipliers.residual;
        let norm = layer.post_norm(block);
        if let Some(bias) = &layer.last(block).bias {
            add_to_rows(&mut s.block, bias).map_err(op("the bias of a block"))?;
        }
        let block = &s.block;
        s.block_normed.resize(block.len(), 0.0);
        rows(pool, &mut s.block_normed, hidden, &|row, out| {
            let x = &block[row * hidden..][..hidden];
            match norm {
                Some(norm) => norm.each(pool.cpu(), x, out),
                None => out.copy_from_slice(x),
            }
            scale(out, factor);
        });
        add(&mut s.stream, &s.block_normed).map_err(op("the sum of a block"))
    }

    fn logits(&mut self) -> Result<(), StepError> {
        let head = self.head.expect("the last stage has a head");
        self.make_logits(head, &self.batch.logit_rows)
    }

    fn send_stream(&mut self, to: usize, collective: &mut dyn Collective) -> Result<(), StepError> {
        Ok(collective.send(to, &mut self.scratch.stream)?)
    }
}

impl Step<'_> {
    /// Attention of layer `index` of this rank, from the stream.
    fn attention(&mut self, layer: &HostLayer, index: usize) -> Result<(), StepError> {
        self.read_stream(layer.attention_norm.as_ref());
        let (pool, s) = (self.pool, &mut *self.scratch);
        project(pool, &layer.input, &s.normed, &mut s.projected)
            .map_err(op("queries, keys and values"))?;
        self.part_heads(layer);
        let s = &mut *self.scratch;
        self.kv.write(index, &s.slots, &s.keys, &s.values).map_err(op("the keys and values"))?;
        let attends = &self.config.attention;
        let shape = AttentionShape {
            heads: self.cut.heads.len(),
            kv_heads: self.cut.kv_heads.len(),
            head_dim: attends.head_dim,
            scale: attends.scale,
            window: layer.window,
            softcap: attends.softcap,
        };
        s.attended.resize(s.queries.len(), 0.0);
        self.kv
            .layer(index)
            .and_then(|kv| attention(pool, &shape, &s.queries, kv, &self.spans, &mut s.attended))
            .and_then(|()| {
                let width = attends.head_dim * self.cut.heads.len();
                let (held, lead) = (layer.output.weight.columns(), layer.output_lead);
                if held == width {
                    return s.block_input.copy_from(pool, width, &s.attended);
                }
                let attended = &s.attended;
                s.block_input.fill(pool, self.batch.tokens.len(), held, &|row, out| {
                    out.fill(0.0);
                    out[lead..lead + width].copy_from_slice(&attended[row * width..][..width]);
                });
                Ok(())
            })
            .map_err(op("attention"))
    }

    /// The feed-forward block of a layer, from the stream. Without a norm of its own in front it
    /// reads what attention read.
    fn feed_forward(&mut self, layer: &HostLayer) -> Result<(), StepError> {
        let reads_stream = layer.feed_forward_norm.is_some() || layer.attention_norm.is_none();
        if reads_stream {
            self.read_stream(layer.feed_forward_norm.as_ref());
        }
        let (pool, s) = (self.pool, &mut *self.scratch);
        project(pool, &layer.up, &s.normed, &mut s.projected).map_err(op("gate and up"))?;
        let (width, kind) = (self.cut.width.len(), self.config.feed_forward.activation);
        let gated = self.config.feed_forward.gated;
        let projected = &s.projected;
        s.block_input.fill(pool, self.batch.tokens.len(), width, &|row, out| {
            let row_width = if gated { 2 * width } else { width };
            let (first, second) = projected[row * row_width..][..row_width].split_at(width);
            gate(pool.cpu(), kind, first, gated.then_some(second), out)
                .expect("both halves have the row's width");
        });
        Ok(())
    }

    /// Logits of `logit_rows`, of this rank's part of the vocabulary.
    fn make_logits(
        &mut self,
        head: &Head<PackedMatrix, Vec<f32>>,
        logit_rows: &[usize],
    ) -> Result<(), StepError> {
        let (pool, count, s) = (self.pool, logit_rows.len(), &mut *self.scratch);
        let (hidden, held) = (self.config.hidden, head.weight.rows());
        let stream = &s.stream;
        s.block_input.fill(pool, count, hidden, &|row, out| {
            let x = &stream[logit_rows[row] * hidden..][..hidden];
            head.norm.each(pool.cpu(), x, out);
        });
        s.logits.resize(count * held, 0.0);
        if count == 0 {
            return Ok(());
        }
        matmul(pool, &head.weight, &s.block_input, MatmulOutput::Set(&mut s.logits))
            .map_err(op("logits"))?;
        let (factor, cap) = (self.config.multipliers.logit, self.config.final_softcap);
        if factor != 1.0 || cap.is_some() {
            rows(pool, &mut s.logits, held, &|_, row| {
                scale(row, factor);
                cap.into_iter().for_each(|cap| softcap(row, cap));
            });
        }
        Ok(())
    }

    /// Makes the stream, normed if there is a norm, the input of a block.
    fn read_stream(&mut self, norm: Option<&Norm<Vec<f32>>>) {
        let (pool, hidden, s) = (self.pool, self.config.hidden, &mut *self.scratch);
        let stream = &s.stream;
        s.normed.fill(pool, self.batch.tokens.len(), hidden, &|row, out| {
            let x = &stream[row * hidden..][..hidden];
            match norm {
                Some(norm) => norm.each(pool.cpu(), x, out),
                None => out.copy_from_slice(x),
            }
        });
    }

    /// Parts queries, keys and values; norms and turns queries and keys.
    fn part_heads(&mut self, layer: &HostLayer) {
        let table = layer.rope.map(|rope| self.ropes.get(rope));
        let (pool, dim, s) = (self.pool, self.config.attention.head_dim, &mut *self.scratch);
        let query_width = self.cut.heads.len() * dim;
        let kv_width = self.cut.kv_heads.len() * dim;
        let row_width = query_width + 2 * kv_width;
        let (projected, tokens) = (&s.projected, self.batch.tokens.len());
        let part = |out: &mut Vec<f32>,
                    first: usize,
                    width: usize,
                    norm: Option<&Norm<Vec<f32>>>,
                    table: Option<&RopeTable>| {
            out.resize(tokens * width, 0.0);
            rows(pool, out, width, &|row, out| {
                let heads = &projected[row * row_width + first..][..width];
                match norm {
                    Some(norm) => norm.each(pool.cpu(), heads, out),
                    None => out.copy_from_slice(heads),
                }
                table.into_iter().for_each(|table| table.turn(row, out));
            });
        };
        part(&mut s.queries, 0, query_width, layer.query_norm.as_ref(), table);
        part(&mut s.keys, query_width, kv_width, layer.key_norm.as_ref(), table);
        part(&mut s.values, query_width + kv_width, kv_width, None, None);
    }

    /// Whether a block's result goes into the stream as it is: then nothing stands between its
    /// last projection and the sum.
    fn is_added_at_once(&self, layer: &HostLayer, block: usize) -> bool {
        let is_bare = layer.post_norm(block).is_none() && layer.last(block).bias.is_none();
        self.ranks == 1 && is_bare && self.config.multipliers.residual == 1.0
    }

    /// Projects a block's result back to the stream's width: into the stream, beside it, or what
    /// this rank has of it.
    fn close(&mut self, layer: &HostLayer, block: usize) -> Result<(), ShapeError> {
        let (is_added, weight) = (self.is_added_at_once(layer, block), &layer.last(block).weight);
        let (pool, s) = (self.pool, &mut *self.scratch);
        let values = s.block_input.tokens() * weight.rows();
        let out = if is_added {
            MatmulOutput::Add(&mut s.stream)
        } else if self.ranks == 1 {
            s.block.resize(values, 0.0);
            MatmulOutput::Set(&mut s.block)
        } else {
            s.part.resize(values, 0.0);
            MatmulOutput::Wide(&mut s.part)
        };
        matmul(pool, weight, &s.block_input, out)
    }
}

/// `out` = `x` through `projection`, its bias added.
fn project(
    pool: &ComputePool,
    projection: &HostProjection,
    x: &Activations,
    out: &mut Vec<f32>,
) -> Result<(), ShapeError> {
    out.resize(x.tokens() * projection.weight.rows(), 0.0);
    matmul(pool, &projection.weight, x, MatmulOutput::Set(out))?;
    projection.bias.as_ref().map_or(Ok(()), |bias| add_to_rows(out, bias))
}
