//! Where the values of a step lie on a device.

use naru_kernels::cuda::{Device, DevicePointer, Element, GpuError, decode_scratch_bytes};
use naru_kernels::{AttentionShape, KV_BLOCK_TOKENS};

use super::CudaLimits;
use super::sampling::{RESULT_WORDS, StepSampling};
use super::step::DeviceModel;

/// Where the values of a step lie. Sizes are those of the largest step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buffers {
    /// What [`StepPlan::write`](super::plan::StepPlan::write) wrote, and then what sampling reads.
    pub(super) inputs: DevicePointer,
    /// f32 `[tokens, hidden]`.
    pub(super) stream: DevicePointer,
    /// What a block reads, `[tokens, hidden]`.
    pub(super) normed: DevicePointer,
    /// Queries, keys and values, or gate and up; between them, heads that are to be widened.
    pub(super) projected: DevicePointer,
    /// `[tokens, heads, head_dim]`.
    pub(super) queries: DevicePointer,
    /// What a block's last projection reads.
    pub(super) block_input: DevicePointer,
    /// What a block returns, `[tokens, hidden]`.
    pub(super) block: DevicePointer,
    /// f32 `[tokens, hidden]`: what this rank has of it, and then the sum; of one rank, nowhere.
    pub(super) partial: DevicePointer,
    /// Partial results of attention.
    pub(super) scratch: DevicePointer,
    /// f32 `[logit rows, vocabulary_part]`.
    pub(super) logits: DevicePointer,
    /// f32 `[vocabulary]`: logits that sampling changes meanwhile.
    pub(super) saved: DevicePointer,
    /// What sampling found, `RESULT_WORDS` for each row.
    pub(super) results: DevicePointer,
}

/// Buffers for the largest step of what `model` holds of each layer. Errors: too little memory.
pub(super) fn allocate(
    device: &mut dyn Device,
    model: &DeviceModel,
    limits: CudaLimits,
) -> Result<Buffers, GpuError> {
    let (hidden, vocabulary) = (model.config.hidden, model.cut.vocabulary.len());
    let shape = model.attention_shape(None);
    let (tokens, sequences) = (limits.max_batch_tokens, limits.max_sequences);
    let query_width = shape.heads * shape.head_dim;
    let input_width = query_width + 2 * shape.kv_heads * shape.head_dim;
    let width = model.cut.width.len();
    let up_width = if model.config.feed_forward.gated { 2 } else { 1 } * width;
    let widened = model.layers.iter().map(DeviceModel::output_columns).max();
    let mut values =
        |width: usize| device.allocate("a step's values", tokens * width * Element::BYTES);
    let normed = values(hidden)?;
    let projected = values(input_width.max(up_width))?;
    let queries = values(query_width)?;
    let block_input = values(query_width.max(width).max(widened.unwrap_or(0)))?;
    let block = values(hidden)?;
    let mut floats = |what, count: usize| device.allocate(what, count * size_of::<f32>());
    let stream = floats("a step's stream", tokens * hidden)?;
    let partial = match model.tensor_ranks() {
        1 => DevicePointer::NULL,
        _ => floats("a rank's part of a sum", tokens * hidden)?,
    };
    let logits = floats("a step's logits", sequences * vocabulary)?;
    let saved = floats("sampling", vocabulary)?;
    Ok(Buffers {
        inputs: device.allocate("a step's inputs", input_bytes(model, limits))?,
        stream,
        normed,
        projected,
        queries,
        block_input,
        block,
        partial,
        scratch: device.allocate("attention's parts", scratch_bytes(&shape, limits))?,
        logits,
        saved,
        results: device.allocate("sampling", tokens * RESULT_WORDS * size_of::<u32>())?,
    })
}

fn input_bytes(model: &DeviceModel, limits: CudaLimits) -> usize {
    let (tokens, sequences) = (limits.max_batch_tokens, limits.max_sequences);
    let blocks = limits.max_context_tokens.div_ceil(KV_BLOCK_TOKENS);
    let words = 4 * tokens + sequences * (8 + blocks) + 64;
    words * size_of::<u32>() + StepSampling::bytes_max(tokens, model.config.vocabulary)
}

fn scratch_bytes(shape: &AttentionShape, limits: CudaLimits) -> usize {
    let keys_max = limits.max_context_tokens.next_power_of_two();
    let counts = 1..=limits.max_sequences;
    counts.map(|count| decode_scratch_bytes(count, shape, keys_max)).max().unwrap_or(0)
}
