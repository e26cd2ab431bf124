//! Sampling parameters and the ranges they must lie in.

use std::ops::RangeInclusive;

/// Choices one request may ask for.
pub const CHOICES_MAX: u32 = 128;
/// Likeliest tokens that may be listed beside each token.
pub const LOGPROBS_MAX: u32 = 20;
/// Tokens one request may bias.
const LOGIT_BIAS_TOKENS_MAX: usize = 1024;

/// How the next token is chosen. Names, order and meaning are vLLM's.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits, 0 to 2; 0 takes the likeliest token.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0 or -1 keeps all.
    pub top_k: i32,
    /// Keeps the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens in the output, -2 to 2.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens in the output per occurrence, -2 to 2.
    pub frequency_penalty: f32,
    /// Added to these tokens' logits, -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same prompt, same parameters: same answer. The caller invents one where the
    /// client gave none.
    pub seed: u64,
    /// Choices: independent answers to the one prompt, each with its own randomness.
    pub n: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            n: 1,
        }
    }
}

/// A parameter out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param} {reason}")]
pub struct SamplingError {
    /// The parameter, by the name it has in a request.
    pub param: &'static str,
    /// What it must be and what it was.
    pub reason: String,
}

impl Sampling {
    /// Refuses what has no meaning: numbers out of range (NaN is in no range), bias on tokens that
    /// a vocabulary of `vocab_size` does not have. Errors: the first such parameter.
    pub fn check(&self, vocab_size: usize) -> Result<(), SamplingError> {
        within("temperature", self.temperature, 0.0..=2.0)?;
        within("top_p", self.top_p, 0.0..=1.0)?;
        within("min_p", self.min_p, 0.0..=1.0)?;
        within("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE..=f32::MAX)?;
        within("presence_penalty", self.presence_penalty, -2.0..=2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?;
        if self.top_k < -1 {
            let reason = format!("must be -1 or 0 (off) or at least 1, was {}", self.top_k);
            return Err(SamplingError { param: "top_k", reason });
        }
        if !(1..=CHOICES_MAX).contains(&self.n) {
            let reason = format!("must be 1 to {CHOICES_MAX}, was {}", self.n);
            return Err(SamplingError { param: "n", reason });
        }
        self.check_bias(vocab_size)
    }

    fn check_bias(&self, vocab_size: usize) -> Result<(), SamplingError> {
        let param = "logit_bias";
        if self.logit_bias.len() > LOGIT_BIAS_TOKENS_MAX {
            let count = self.logit_bias.len();
            let reason = format!("must name at most {LOGIT_BIAS_TOKENS_MAX} tokens, named {count}");
            return Err(SamplingError { param, reason });
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab_size {
                let reason = format!("names token {token}, outside the vocabulary of {vocab_size}");
                return Err(SamplingError { param, reason });
            }
            within(param, bias, -100.0..=100.0)?;
        }
        Ok(())
    }
}

/// Whether `count` likeliest tokens may be listed. Errors: more than `LOGPROBS_MAX`.
pub(crate) fn check_logprobs(param: &'static str, count: Option<u32>) -> Result<(), SamplingError> {
    match count {
        Some(count) if count > LOGPROBS_MAX => {
            let reason = format!("must be at most {LOGPROBS_MAX}, was {count}");
            Err(SamplingError { param, reason })
        }
        _ => Ok(()),
    }
}

fn within(
    param: &'static str,
    value: f32,
    range: RangeInclusive<f32>,
) -> Result<(), SamplingError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (low, high) = range.into_inner();
    let reason = match (low, high) {
        (f32::MIN_POSITIVE, f32::MAX) => format!("must be a finite number above 0, was {value}"),
        _ => format!("must be a number from {low} to {high}, was {value}"),
    };
    Err(SamplingError { param, reason })
}
