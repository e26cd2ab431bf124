//! Sampling on a CUDA device: one launch from logits to tokens and their log-probabilities.

use crate::cuda::{DevicePointer, Launch};
use crate::shape::{self, ShapeError};

const OP: &str = "sampling";
const ROW_THREADS_MIN: usize = 64;
const ROW_THREADS_MAX: usize = 1024;

/// How the token of a row is chosen, as the device reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceSampling {
    /// What logits are divided by; below 1e-5 the likeliest token is taken.
    pub temperature: f32,
    /// Only the fewest likeliest tokens that have this share of the mass together; 1: all.
    pub top_p: f32,
    /// Only tokens that are at least so likely as this share of the likeliest; 0: all.
    pub min_p: f32,
    /// Only so many likeliest tokens; 0: all.
    pub top_k: u32,
    /// Logits of tokens of the prompt and the output are divided by it, or multiplied if negative.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens of the output.
    pub presence_penalty: f32,
    /// Likewise, for each occurrence.
    pub frequency_penalty: f32,
    /// None: no log-probabilities; else of the token and of so many likeliest ones.
    pub logprobs: Option<u32>,
    /// A uniform number in [0, 1), in units of 2⁻⁵³.
    pub random: u64,
    /// The row's changes: the first, and behind the last.
    pub changes: [u32; 2],
}

impl DeviceSampling {
    /// Likeliest tokens of which log-probabilities are to be had.
    pub const LOGPROBS_MAX: usize = 20;
    /// Logits of a row: so many of the greatest weights fit into a sum of 64 bits.
    pub const VOCABULARY_MAX: usize = 1 << 19;
    /// Bytes on the device.
    pub const BYTES: usize = 48;
    /// The likeliest token, and nothing is to be known of it.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        top_k: 0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logprobs: None,
        random: 0,
        changes: [0, 0],
    };

    /// As the device holds it.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let words = [
            self.temperature.to_bits(),
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            self.top_k,
            self.repetition_penalty.to_bits(),
            self.presence_penalty.to_bits(),
            self.frequency_penalty.to_bits(),
            self.logprobs.map_or(0, |likeliest| likeliest + 1),
            self.random as u32,
            (self.random >> 32) as u32,
            self.changes[0],
            self.changes[1],
        ];
        let mut bytes = [0; Self::BYTES];
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }
}

/// What a row changes in the logit of one token, as the device reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenChange {
    /// The token; a row has at most one change of each. Beyond the vocabulary: ignored.
    pub token: u32,
    /// Occurrences in the output.
    pub count: u32,
    /// Whether the prompt has it.
    pub is_in_prompt: bool,
    /// Whether it may not be chosen.
    pub is_masked: bool,
    /// What is added to the logit first.
    pub bias: f32,
}

impl TokenChange {
    /// Bytes on the device.
    pub const BYTES: usize = 16;

    /// As the device holds it.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let flags = u32::from(self.is_in_prompt) | u32::from(self.is_masked) << 1;
        let mut bytes = [0; Self::BYTES];
        let words = [self.token, self.count, flags, self.bias.to_bits()];
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }
}

/// Rows of which tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleTask {
    /// Rows.
    pub rows: usize,
    /// Logits of a row.
    pub vocabulary: usize,
    /// f32 `[rows, vocabulary]`. Changed meanwhile, and in the end what they were.
    pub logits: DevicePointer,
    /// [`DeviceSampling`] `[rows]`.
    pub sampling: DevicePointer,
    /// [`TokenChange`] `[changes]`, those of all rows. Null: none.
    pub changes: DevicePointer,
    /// f32 `[changes]`: memory to work in.
    pub saved: DevicePointer,
    /// u32 `[rows]`; 0xffffffff where no token may be chosen.
    pub tokens: DevicePointer,
    /// f32 `[rows]`: of the tokens, under the row as it came. Written where asked for.
    pub logprobs: DevicePointer,
    /// u32 `[rows, LOGPROBS_MAX]`: the likeliest of the row as it came, likeliest first, then
    /// 0xffffffff. Written where asked for.
    pub top_tokens: DevicePointer,
    /// f32 `[rows, LOGPROBS_MAX]`: theirs, then minus infinity.
    pub top_logprobs: DevicePointer,
}

/// The launch for such rows. Errors: a vocabulary whose weights might overflow their sum.
pub fn sample(task: &SampleTask) -> Result<Launch, ShapeError> {
    shape::at_most(OP, "vocabulary", DeviceSampling::VOCABULARY_MAX, task.vocabulary)?;
    Ok(Launch {
        op: OP,
        kernel: "sample",
        grid: [shape::to_u32(OP, "rows", task.rows)?, 1, 1],
        block: [row_threads(task.vocabulary), 1, 1],
        shared_bytes: 0,
        arguments: vec![
            task.logits.into(),
            (task.vocabulary as u32).into(),
            task.sampling.into(),
            task.changes.into(),
            task.saved.into(),
            task.tokens.into(),
            task.logprobs.into(),
            task.top_tokens.into(),
            task.top_logprobs.into(),
        ],
        product: None,
    })
}

/// Threads of a block that looks at a row: a power of two, for four logits each or more.
fn row_threads(vocabulary: usize) -> u32 {
    (vocabulary / 4).next_power_of_two().clamp(ROW_THREADS_MIN, ROW_THREADS_MAX) as u32
}
