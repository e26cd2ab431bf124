//! A decoder on a CUDA device.
//!
//! ```text
//! batch ── plan (sizes) ── launches (data) ──▶ device.run
//!   └───── inputs (words) ──▶ device.upload                  │
//! wanted ─── sampling ───────────────┘                         ▼
//!                                                sample ─ device.read_words ── tokens
//! ```
//!
//! Launches up to the logits follow from a step's sizes alone, so a device may keep those of a step
//! that comes again. Logits leave the device only for who asks for them: of a rank of several, for
//! rank 0, which samples on the host.
//! The residual stream is of 32-bit floats, everything else of the [`Element`].

mod buffers;
mod pass;
mod plan;
mod sampling;
mod step;
mod store;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::mem;
use std::ops::Range;

use naru_kernels::cuda::{Device, DevicePointer, DeviceRope, DeviceSampling, Element, GpuError};
use naru_kernels::{ComputePool, KV_BLOCK_TOKENS};
use thiserror::Error as ThisError;

use self::buffers::Buffers;
use self::pass::DevicePass;
use self::plan::StepPlan;
use self::sampling::{Pass, SamplingPlaces, StepSampling};
use self::step::DeviceModel;
use self::store::DeviceStore;
use super::forward::{check_spans, op};
use super::load::{Loaded, Source, load_into};
use super::positions::RopeTables;
use super::{
    Collective, LoadError, LoadProgress, RankDecoder, Shard, SingleRank, StepError, pass as order,
};
use crate::config::ModelConfig;
use crate::engine::{Batch, Forward};
use crate::model::ModelFiles;
use crate::sampling::{RowSampling, SampledRow, Sampler};

/// What the steps of a [`CudaDecoder`] are bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaLimits {
    /// The number format of activations, keys and values.
    pub element: Element,
    /// Tokens of a step.
    pub max_batch_tokens: usize,
    /// Sequences of a step.
    pub max_sequences: usize,
    /// Tokens of a sequence.
    pub max_context_tokens: usize,
}

/// One rank's part of a model on a device, whose keys and values have no memory yet.
pub struct CudaModel {
    device: Box<dyn Device>,
    model: DeviceModel,
    limits: CudaLimits,
}

/// One rank's part of a model and its KV cache on a device; of a whole model, what an engine
/// drives.
pub struct CudaDecoder {
    device: Box<dyn Device>,
    model: DeviceModel,
    limits: CudaLimits,
    words: Vec<u32>,
    bytes: Vec<u8>,
    /// What goes over the host.
    values: Vec<f32>,
    /// The same, to be summed.
    wide: Vec<f64>,
    /// `[logit_rows, vocabulary_part]` of a rank's last piece.
    logits: Vec<f32>,
}

/// A model that could not be put on a device.
#[derive(Debug, ThisError)]
pub enum CudaLoadError {
    /// The weights.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The device.
    #[error("making room for the model's steps")]
    Device(#[source] GpuError),
}

impl CudaModel {
    /// Puts `shard` on `device`, laid out by all threads of `pool`; `progress` is told after each
    /// layer. Errors: a shard that the model cannot be cut into, a tensor that is missing or has
    /// another shape or format, too little memory.
    pub fn load(
        files: &ModelFiles,
        shard: Shard,
        device: Box<dyn Device>,
        pool: &ComputePool,
        limits: CudaLimits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, CudaLoadError> {
        Self::of_source(&Source::of(files), shard, device, pool, limits, progress)
    }

    fn of_source(
        source: &Source<'_>,
        shard: Shard,
        mut device: Box<dyn Device>,
        pool: &ComputePool,
        limits: CudaLimits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, CudaLoadError> {
        let config = source.config;
        let store = DeviceStore::new(device.as_mut(), pool);
        let Loaded { cut, embedding, layers, head, ropes } =
            load_into(&store, source, &shard, progress)?;
        let mut model = DeviceModel {
            config: config.clone(),
            shard,
            cut,
            element: limits.element,
            embedding,
            layers,
            head,
            ropes: Vec::new(),
            buffers: Buffers::default(),
            kv: DevicePointer::NULL,
            kv_blocks: 0,
            logit_rows_max: limits.max_sequences,
        };
        model.ropes = put_ropes(device.as_mut(), ropes, limits).map_err(CudaLoadError::Device)?;
        let buffers = buffers::allocate(device.as_mut(), &model, limits);
        model.buffers = buffers.map_err(CudaLoadError::Device)?;
        Ok(Self { device, model, limits })
    }

    /// The whole model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// The part of it that is here.
    pub fn shard(&self) -> &Shard {
        &self.model.shard
    }

    /// Bytes of the device's memory that are free.
    pub fn free_bytes(&self) -> Result<usize, GpuError> {
        self.device.free_bytes()
    }

    /// Bytes that one block of keys and values takes on this rank.
    pub fn kv_bytes_per_block(&self) -> usize {
        let heads = self.model.attention_shape(None);
        let values = KV_BLOCK_TOKENS * heads.kv_heads * heads.head_dim;
        2 * self.model.layers.len() * values * Element::BYTES
    }

    /// With memory for `blocks` blocks of keys and values. Errors: there is not so much.
    pub fn with_kv_blocks(mut self, blocks: usize) -> Result<CudaDecoder, GpuError> {
        let bytes = self.kv_bytes_per_block() * blocks;
        self.model.kv = self.device.allocate("keys and values", bytes)?;
        self.model.kv_blocks = blocks;
        let Self { device, model, limits } = self;
        let (words, bytes) = (Vec::new(), Vec::new());
        let (values, wide, logits) = (Vec::new(), Vec::new(), Vec::new());
        Ok(CudaDecoder { device, model, limits, words, bytes, values, wide, logits })
    }
}

impl CudaDecoder {
    fn logits(&mut self, batch: &Batch) -> Result<&[f32], StepError> {
        let plan = self.plan(batch, self.model.logit_rows_max)?;
        self.step(batch, &plan, &mut SingleRank, |_| ())?;
        let count = batch.logit_rows.len() * self.model.config.vocabulary;
        Ok(self.device.read_floats(self.model.buffers.logits, count)?)
    }

    fn sample(
        &mut self,
        batch: &Batch,
        rows: &[RowSampling<'_>],
    ) -> Result<Vec<SampledRow>, StepError> {
        if rows.len() != batch.logit_rows.len() {
            let (wanted, rows) = (rows.len(), batch.logit_rows.len());
            let reason = format!("something is wanted of {wanted} rows, where {rows} are");
            return Err(StepError::Batch { reason });
        }
        let vocabulary = self.model.config.vocabulary;
        let plan = self.plan(batch, self.limits.max_batch_tokens)?;
        let at_once = self.model.logit_rows_max;
        let step = StepSampling::of(rows, vocabulary, at_once);
        let sampling = self.step(batch, &plan, &mut SingleRank, |bytes| step.write(bytes))?;
        let Buffers { logits, saved, results, .. } = self.model.buffers;
        let places = SamplingPlaces { logits, sampling, saved, results };
        for pass in step.passes(places) {
            let Pass { first_row, changes, launch } = pass.map_err(op("sampling"))?;
            let mut launches = Vec::new();
            if let (to, bytes @ [_, ..]) = (changes.0, &changes.1[..]) {
                self.device.upload(to, bytes)?;
            }
            if first_row > 0 && first_row.is_multiple_of(at_once) {
                let end = rows.len().min(first_row + at_once);
                launches = self.model.logits(&plan, first_row..end)?;
            }
            launches.push(launch);
            self.device.run(None, &mut || mem::take(&mut launches))?;
        }
        Ok(step.read(self.device.read_words(results, step.result_words())?))
    }

    /// Takes a step, or a piece of one, up to the first logits, and puts what `more` writes behind
    /// the inputs. Returns where that lies.
    fn step(
        &mut self,
        batch: &Batch,
        plan: &StepPlan,
        collective: &mut dyn Collective,
        more: impl FnOnce(&mut Vec<u8>),
    ) -> Result<DevicePointer, StepError> {
        let (model, device) = (&self.model, self.device.as_mut());
        let inputs = model.buffers.inputs;
        if batch.tokens.is_empty() {
            return Ok(inputs);
        }
        plan.write(batch, model.cut.vocabulary.start, &mut self.words);
        self.bytes.clear();
        self.bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let place = inputs.offset(self.bytes.len());
        more(&mut self.bytes);
        device.upload(inputs, &self.bytes)?;
        let tokens = batch.tokens.len();
        let values = (&mut self.values, &mut self.wide);
        let mut pass = DevicePass::new(device, model, plan, tokens, values);
        order::run(&mut pass, &model.shard, collective)?;
        Ok(place)
    }

    /// Copies logits to the host, and makes those that there was no room for.
    fn read_logits(&mut self, plan: &StepPlan, rows: usize) -> Result<(), StepError> {
        let (at_once, columns) = (self.model.logit_rows_max, self.model.cut.vocabulary.len());
        for first in (0..rows).step_by(at_once) {
            let rows = first..rows.min(first + at_once);
            if first > 0 {
                let mut launches = self.model.logits(plan, rows.clone())?;
                self.device.run(None, &mut || mem::take(&mut launches))?;
            }
            let count = rows.len() * columns;
            let logits = self.device.read_floats(self.model.buffers.logits, count)?;
            self.logits.extend_from_slice(logits);
        }
        Ok(())
    }

    /// The plan of a step that has room.
    fn plan(&self, batch: &Batch, logit_rows_max: usize) -> Result<StepPlan, StepError> {
        check_spans(batch, self.model.kv_blocks)?;
        let vocabulary = self.model.config.vocabulary;
        let unknown = batch.tokens.iter().position(|token| *token as usize >= vocabulary);
        if let Some(place) = unknown {
            return Err(StepError::Token { token: batch.tokens[place], place, vocabulary });
        }
        let limits = &self.limits;
        let longest = batch.spans.iter().map(|span| span.position + span.tokens.len()).max();
        let sizes = [
            ("tokens", batch.tokens.len(), limits.max_batch_tokens),
            ("sequences", batch.spans.len(), limits.max_sequences),
            ("rows of logits", batch.logit_rows.len(), logit_rows_max),
            ("tokens of a sequence", longest.unwrap_or(0), limits.max_context_tokens),
        ];
        match sizes.iter().find(|(_, found, most)| found > most) {
            Some((what, found, most)) => {
                Err(StepError::Batch { reason: format!("{found} {what}, where {most} are room") })
            }
            None => Ok(StepPlan::of(batch, limits.max_sequences)),
        }
    }
}

impl Forward for CudaDecoder {
    fn vocab_size(&self) -> usize {
        self.model.config.vocabulary
    }

    fn forward(&mut self, batch: &Batch) -> Result<&[f32], Box<dyn Error + Send + Sync>> {
        Ok(self.logits(batch)?)
    }

    fn forward_and_sample(
        &mut self,
        batch: &Batch,
        rows: &[RowSampling<'_>],
        sampler: &mut Sampler,
    ) -> Result<Vec<SampledRow>, Box<dyn Error + Send + Sync>> {
        let vocabulary = self.model.config.vocabulary;
        if vocabulary > DeviceSampling::VOCABULARY_MAX {
            return Ok(sampler.sample_rows(self.logits(batch)?, vocabulary, rows)?);
        }
        Ok(self.sample(batch, rows)?)
    }
}

impl RankDecoder for CudaDecoder {
    fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    fn shard(&self) -> &Shard {
        &self.model.shard
    }

    fn vocabulary_part_of(&self, rank: usize) -> Range<usize> {
        self.model.cut.vocabulary_part_of(&self.model.shard, rank)
    }

    fn check(&self, batch: &Batch) -> Result<(), StepError> {
        self.plan(batch, self.limits.max_batch_tokens).map(|_| ())
    }

    fn compute(
        &mut self,
        piece: &Batch,
        collective: &mut dyn Collective,
    ) -> Result<&[f32], StepError> {
        self.logits.clear();
        let plan = self.plan(piece, self.limits.max_batch_tokens)?;
        self.step(piece, &plan, collective, |_| ())?;
        if self.model.shard.is_last_stage() {
            self.read_logits(&plan, piece.logit_rows.len())?;
        }
        Ok(&self.logits)
    }

    fn take_logits(&mut self, values: &mut Vec<f32>) {
        mem::swap(&mut self.logits, values);
    }

    fn device(&mut self) -> Option<&mut dyn Device> {
        Some(self.device.as_mut())
    }
}

/// Cosines and sines of every position that there can be, for each rope.
fn put_ropes(
    device: &mut dyn Device,
    mut ropes: RopeTables,
    limits: CudaLimits,
) -> Result<Vec<DeviceRope>, GpuError> {
    let positions: Vec<usize> = (0..limits.max_context_tokens).collect();
    ropes.fill(&positions);
    ropes
        .iter()
        .map(|table| {
            let pairs = table.cosines().iter().zip(table.sines());
            let values = pairs.flat_map(|(cosine, sine)| [*cosine, *sine]);
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            let pointer = device.allocate("the angles of positions", bytes.len())?;
            device.upload(pointer, &bytes)?;
            let shape = table.shape();
            Ok(DeviceRope { table: pointer, rotary_dim: shape.rotary_dim, pairs: shape.pairs })
        })
        .collect()
}
