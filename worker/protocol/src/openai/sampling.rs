//! How the answer is drawn, where it stops, and whether it is streamed: shared by both endpoints.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Deserialize;

use super::error::ApiError;
use super::read::{Object, TextOr};

/// Most stop strings of a request. OpenAI takes 4; agents written for vLLM send more.
pub const STOP_STRINGS_MAX: usize = 16;
/// Longest stop string: the stream is held back by as much.
pub const STOP_BYTES_MAX: usize = 1024;
/// Most choices of one request.
pub const N_MAX: u32 = 32;
/// Most alternatives per token.
pub const LOGPROBS_MAX: u32 = 20;
const LOGIT_BIAS_MAX: usize = 1024;
const STOP_TOKEN_IDS_MAX: usize = 128;

/// Checked sampling parameters; `None` means that the model's or the server's default applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy, at most 2.
    pub temperature: Option<f32>,
    /// Within 0..=1.
    pub top_p: Option<f32>,
    /// `Some(0)` switches it off.
    pub top_k: Option<u32>,
    /// Within 0..=1, relative to the most likely token.
    pub min_p: Option<f32>,
    /// Above 0; 1 does nothing.
    pub repetition_penalty: Option<f32>,
    /// Within -2..=2.
    pub presence_penalty: f32,
    /// Within -2..=2.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, -100..=100.
    pub logit_bias: Vec<(u32, f32)>,
    /// Equal requests with equal seeds get equal answers.
    pub seed: Option<i64>,
    /// Choices to draw, 1..=[`N_MAX`].
    pub n: u32,
    /// End-of-generation and stops are not taken before so many tokens.
    pub min_tokens: u32,
    /// Go on after the end-of-generation token.
    pub ignore_eos: bool,
    /// At most [`STOP_STRINGS_MAX`], none empty, none above [`STOP_BYTES_MAX`].
    pub stop: Vec<String>,
    /// Tokens that end the answer.
    pub stop_token_ids: Vec<u32>,
    /// Leave the stop string in the text.
    pub include_stop_str_in_output: bool,
    /// Leave special tokens out of the text; the default.
    pub skip_special_tokens: bool,
}

/// Whether and how the answer is streamed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streaming {
    /// Answer with server-sent events.
    pub stream: bool,
    /// One last event with the usage.
    pub include_usage: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct SamplingFields {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    seed: Option<i64>,
    n: Option<u32>,
    min_tokens: Option<u32>,
    ignore_eos: Option<bool>,
    stop: Option<TextOr<String>>,
    stop_token_ids: Option<Vec<u32>>,
    include_stop_str_in_output: Option<bool>,
    skip_special_tokens: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamingFields {
    stream: Option<bool>,
    stream_options: Option<Object<StreamOptions>>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

impl SamplingFields {
    pub(super) fn check(self) -> Result<Sampling, ApiError> {
        within("temperature", self.temperature, 0.0..=2.0)?;
        within("top_p", self.top_p, 0.0..=1.0)?;
        within("min_p", self.min_p, 0.0..=1.0)?;
        within("presence_penalty", self.presence_penalty, -2.0..=2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01..=100.0)?;
        let n = self.n.unwrap_or(1);
        if !(1..=N_MAX).contains(&n) {
            return Err(ApiError::invalid_value("n", format!("`n` must be within 1..={N_MAX}")));
        }
        Ok(Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k.map(check_top_k).transpose()?,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias: check_logit_bias(self.logit_bias.unwrap_or_default())?,
            seed: self.seed,
            n,
            min_tokens: self.min_tokens.unwrap_or(0),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            stop: check_stop(self.stop)?,
            stop_token_ids: check_stop_token_ids(self.stop_token_ids.unwrap_or_default())?,
            include_stop_str_in_output: self.include_stop_str_in_output.unwrap_or(false),
            skip_special_tokens: self.skip_special_tokens.unwrap_or(true),
        })
    }
}

impl Sampling {
    /// Errors: more tokens are demanded than allowed.
    pub(super) fn check_min_tokens(&self, max_tokens: Option<u32>) -> Result<(), ApiError> {
        if max_tokens.is_some_and(|max_tokens| self.min_tokens > max_tokens) {
            let message = "`min_tokens` must not be above `max_tokens`";
            return Err(ApiError::invalid_value("min_tokens", message));
        }
        Ok(())
    }
}

impl StreamingFields {
    pub(super) fn check(self) -> Result<Streaming, ApiError> {
        let stream = self.stream.unwrap_or(false);
        let Some(Object(options)) = self.stream_options else {
            return Ok(Streaming { stream, include_usage: false });
        };
        if !stream {
            let message = "`stream_options` needs `stream: true`";
            return Err(ApiError::invalid_value("stream_options", message));
        }
        if options.continuous_usage_stats == Some(true) {
            let path = "stream_options.continuous_usage_stats";
            return Err(ApiError::unsupported(path, "usage comes once, at the end"));
        }
        Ok(Streaming { stream, include_usage: options.include_usage.unwrap_or(false) })
    }
}

/// Refuses a number outside of `range`; infinities and NaN are outside of every range.
fn within(param: &str, value: Option<f32>, range: RangeInclusive<f32>) -> Result<(), ApiError> {
    match value {
        Some(value) if !range.contains(&value) => {
            let (low, high) = range.into_inner();
            let message = format!("`{param}` must be within {low}..={high}");
            Err(ApiError::invalid_value(param, message))
        }
        _ => Ok(()),
    }
}

/// vLLM writes "off" as 0 or -1.
fn check_top_k(top_k: i64) -> Result<u32, ApiError> {
    match top_k {
        -1 => Ok(0),
        _ => u32::try_from(top_k).map_err(|_| {
            ApiError::invalid_value(
                "top_k",
                "`top_k` must be -1, 0 (both off) or a positive integer",
            )
        }),
    }
}

fn check_logit_bias(written: BTreeMap<String, f32>) -> Result<Vec<(u32, f32)>, ApiError> {
    if written.len() > LOGIT_BIAS_MAX {
        let message = format!("`logit_bias` may name at most {LOGIT_BIAS_MAX} tokens");
        return Err(ApiError::invalid_value("logit_bias", message));
    }
    let check = |(token, bias): (String, f32)| {
        let id: u32 = token.parse().map_err(|_| {
            ApiError::invalid_value("logit_bias", "the keys of `logit_bias` must be token ids")
        })?;
        within(&format!("logit_bias.{id}"), Some(bias), -100.0..=100.0)?;
        Ok((id, bias))
    };
    written.into_iter().map(check).collect()
}

fn check_stop(written: Option<TextOr<String>>) -> Result<Vec<String>, ApiError> {
    let stop = match written {
        None => Vec::new(),
        Some(TextOr::Text(text)) => vec![text],
        Some(TextOr::List(list)) => list,
    };
    if stop.len() > STOP_STRINGS_MAX {
        let message = format!("`stop` may hold at most {STOP_STRINGS_MAX} strings");
        return Err(ApiError::invalid_value("stop", message));
    }
    if stop.iter().any(|text| text.is_empty() || text.len() > STOP_BYTES_MAX) {
        let message = format!("each of `stop` must have 1..={STOP_BYTES_MAX} bytes");
        return Err(ApiError::invalid_value("stop", message));
    }
    Ok(stop)
}

fn check_stop_token_ids(ids: Vec<u32>) -> Result<Vec<u32>, ApiError> {
    if ids.len() > STOP_TOKEN_IDS_MAX {
        let message = format!("`stop_token_ids` may hold at most {STOP_TOKEN_IDS_MAX} ids");
        return Err(ApiError::invalid_value("stop_token_ids", message));
    }
    Ok(ids)
}
