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
//! that comes again. Logits leave the device only for who asks for them.
//! The residual stream is of 32-bit floats, everything else of the [`Element`].

mod plan;
mod sampling;
mod step;
mod store;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::mem;

use naru_kernels::cuda::{
    Device, DevicePointer, DeviceRope, DeviceSampling, Element, GpuError, decode_scratch_bytes,
};
use naru_kernels::{AttentionShape, ComputePool, KV_BLOCK_TOKENS};
use thiserror::Error as ThisError;

use self::plan::StepPlan;
use self::sampling::{Pass, RESULT_WORDS, SamplingPlaces, StepSampling};
use self::step::{Buffers, DeviceModel};
use self::store::DeviceStore;
use super::forward::{check_spans, op};
use super::load::{Loaded, Source, load_into};
use super::positions::RopeTables;
use super::{LoadError, LoadProgress, Shard, StepError};
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

/// A whole model on a device, whose keys and values have no memory yet.
pub struct CudaModel {
    device: Box<dyn Device>,
    model: DeviceModel,
    limits: CudaLimits,
}

/// A whole model and its KV cache on a device: what an engine drives.
pub struct CudaDecoder {
    device: Box<dyn Device>,
    model: DeviceModel,
    limits: CudaLimits,
    words: Vec<u32>,
    bytes: Vec<u8>,
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
    /// Puts the whole model on `device`, laid out by all threads of `pool`; `progress` is told
    /// after each layer. Errors: a tensor that is missing or has another shape or format, too
    /// little memory.
    pub fn load(
        files: &ModelFiles,
        device: Box<dyn Device>,
        pool: &ComputePool,
        limits: CudaLimits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, CudaLoadError> {
        Self::of_source(&Source::of(files), device, pool, limits, progress)
    }

    fn of_source(
        source: &Source<'_>,
        mut device: Box<dyn Device>,
        pool: &ComputePool,
        limits: CudaLimits,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, CudaLoadError> {
        let config = source.config;
        let store = DeviceStore::new(device.as_mut(), pool);
        let Loaded { embedding, layers, head, ropes, .. } =
            load_into(&store, source, &Shard::whole(config), progress)?;
        let (embedding, head) =
            embedding.zip(head).expect("a whole model has an embedding and a head");
        let mut model = DeviceModel {
            config: config.clone(),
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
        model.buffers = allocate(device.as_mut(), &model, limits).map_err(CudaLoadError::Device)?;
        Ok(Self { device, model, limits })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// Bytes of the device's memory that are free.
    pub fn free_bytes(&self) -> Result<usize, GpuError> {
        self.device.free_bytes()
    }

    /// Bytes that one block of keys and values takes.
    pub fn kv_bytes_per_block(&self) -> usize {
        let attention = &self.model.config.attention;
        let values = KV_BLOCK_TOKENS * attention.kv_heads * attention.head_dim;
        2 * self.model.config.layers.len() * values * Element::BYTES
    }

    /// With memory for `blocks` blocks of keys and values. Errors: there is not so much.
    pub fn with_kv_blocks(mut self, blocks: usize) -> Result<CudaDecoder, GpuError> {
        let bytes = self.kv_bytes_per_block() * blocks;
        self.model.kv = self.device.allocate("keys and values", bytes)?;
        self.model.kv_blocks = blocks;
        let Self { device, model, limits } = self;
        Ok(CudaDecoder { device, model, limits, words: Vec::new(), bytes: Vec::new() })
    }
}

impl CudaDecoder {
    fn logits(&mut self, batch: &Batch) -> Result<&[f32], StepError> {
        let plan = self.plan(batch, self.model.logit_rows_max)?;
        self.compute(batch, &plan, |_| ())?;
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
        let sampling = self.compute(batch, &plan, |bytes| step.write(bytes))?;
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

    /// Asks for everything up to the first logits, and puts what `more` writes behind the inputs.
    /// Returns where that lies.
    fn compute(
        &mut self,
        batch: &Batch,
        plan: &StepPlan,
        more: impl FnOnce(&mut Vec<u8>),
    ) -> Result<DevicePointer, StepError> {
        let inputs = self.model.buffers.inputs;
        if batch.tokens.is_empty() {
            return Ok(inputs);
        }
        plan.write(batch, &mut self.words);
        self.bytes.clear();
        self.bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let place = inputs.offset(self.bytes.len());
        more(&mut self.bytes);
        self.device.upload(inputs, &self.bytes)?;
        let (mut refused, model) = (None, &self.model);
        self.device.run(plan.key(), &mut || match model.launches(plan) {
            Ok(launches) => launches,
            Err(error) => {
                refused = Some(error);
                Vec::new()
            }
        })?;
        refused.map_or(Ok(place), Err)
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

/// Buffers for the largest step.
fn allocate(
    device: &mut dyn Device,
    model: &DeviceModel,
    limits: CudaLimits,
) -> Result<Buffers, GpuError> {
    let config = &model.config;
    let (attention, feed_forward) = (&config.attention, &config.feed_forward);
    let (tokens, sequences) = (limits.max_batch_tokens, limits.max_sequences);
    let query_width = attention.heads * attention.head_dim;
    let input_width = query_width + 2 * attention.kv_heads * attention.head_dim;
    let up_width = if feed_forward.gated { 2 } else { 1 } * feed_forward.width;
    let blocks = limits.max_context_tokens.div_ceil(KV_BLOCK_TOKENS);
    let words = 4 * tokens + sequences * (8 + blocks) + 64;
    let sampling_bytes = StepSampling::bytes_max(tokens, config.vocabulary);
    let mut values =
        |width: usize| device.allocate("a step's values", tokens * width * Element::BYTES);
    let normed = values(config.hidden)?;
    let projected = values(input_width.max(up_width))?;
    let queries = values(query_width)?;
    let block_input = values(query_width.max(feed_forward.width))?;
    let block = values(config.hidden)?;
    let shape = AttentionShape {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        scale: attention.scale,
        window: None,
        softcap: None,
    };
    let keys_max = limits.max_context_tokens.next_power_of_two();
    let scratch = (1..=sequences).map(|count| decode_scratch_bytes(count, &shape, keys_max));
    Ok(Buffers {
        inputs: device.allocate("a step's inputs", words * size_of::<u32>() + sampling_bytes)?,
        stream: device.allocate("a step's stream", tokens * config.hidden * size_of::<f32>())?,
        normed,
        projected,
        queries,
        block_input,
        block,
        scratch: device.allocate("attention's parts", scratch.max().unwrap_or(0))?,
        logits: device
            .allocate("a step's logits", sequences * config.vocabulary * size_of::<f32>())?,
        saved: device.allocate("sampling", config.vocabulary * size_of::<f32>())?,
        results: device.allocate("sampling", tokens * RESULT_WORDS * size_of::<u32>())?,
    })
}
