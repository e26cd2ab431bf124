//! From a checked request to prompts in tokens and into the engine.

use naru_engine::{ChatInput, EncodeOptions, Limits, Request, StopRules, UnixSeconds};
use naru_protocol::openai::{ApiError, Sampling, TemplateInput};
use serde_json::Value;

use super::error::{Refused, draining};
use crate::clock;
use crate::drive::Drive;
use crate::member::{Defaults, Served};

/// Runs `work`, which may take long on a long prompt, beside the threads that serve connections.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, Refused> {
    // It fails to be joined only when it panicked or the process is ending.
    let result = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let at_fault = || ApiError::internal("reading the request failed");
        Err(if error.is_panic() { at_fault() } else { draining() })
    });
    result.map_err(Refused)
}

/// The prompt of a chat, in tokens. Errors: 400 where the template refuses the conversation.
pub(super) fn render(served: &Served, input: &TemplateInput) -> Result<Vec<u32>, ApiError> {
    let Some(template) = &served.template else {
        let why = "this model has no chat template: use /v1/completions";
        return Err(ApiError::unsupported("messages", why));
    };
    let messages: Value =
        input.messages.iter().map(naru_protocol::openai::Message::for_template).collect();
    let prompt = template.render(&ChatInput {
        messages: &messages,
        tools: input.tools.as_ref(),
        documents: input.documents.as_ref(),
        add_generation_prompt: input.add_generation_prompt,
        continue_final_message: input.continue_final_message,
        kwargs: &input.kwargs,
        now: UnixSeconds(clock::unix_seconds().cast_signed()),
    });
    let prompt = prompt.map_err(|error| {
        if !error.is_request_fault() {
            tracing::error!(%error, "rendering the chat template");
            return ApiError::internal("the model's chat template failed");
        }
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        let message = format!("{error}{}", cause.unwrap_or_default());
        ApiError::invalid_value("messages", message.chars().take(500).collect::<String>())
    })?;
    let options = EncodeOptions { add_special: input.add_special_tokens, parse_special: true };
    Ok(served.tokenizer.encode(&prompt, options))
}

/// What the requests for several prompts of one HTTP request have in common.
pub(super) struct Common {
    pub(super) sampling: Sampling,
    pub(super) max_tokens: Option<u32>,
    pub(super) logprobs: Option<u32>,
    pub(super) prompt_logprobs: Option<u32>,
    pub(super) tenant_salt: u64,
}

impl Common {
    /// One request to the engine for each prompt.
    pub(super) fn requests(
        &self,
        drive: &Drive,
        defaults: &Defaults,
        prompts: Vec<Vec<u32>>,
    ) -> Vec<Request> {
        let request = |prompt: Vec<u32>| Request {
            id: drive.next_id(),
            prompt,
            tenant_salt: self.tenant_salt,
            sampling: sampling(&self.sampling, defaults),
            limits: Limits {
                max_tokens: self.max_tokens.map(|tokens| tokens as usize),
                min_tokens: self.sampling.min_tokens as usize,
                ignore_eos: self.sampling.ignore_eos,
            },
            stop: StopRules {
                strings: self.sampling.stop.clone(),
                token_ids: self.sampling.stop_token_ids.clone(),
                include_stop_str_in_output: self.sampling.include_stop_str_in_output,
            },
            logprobs: self.logprobs,
            prompt_logprobs: self.prompt_logprobs,
            skip_special_tokens: self.sampling.skip_special_tokens,
        };
        prompts.into_iter().map(request).collect()
    }
}

/// The request's word, else the checkpoint's, else "off".
fn sampling(asked: &Sampling, defaults: &Defaults) -> naru_engine::Sampling {
    let top_k = asked.top_k.or(defaults.top_k).unwrap_or(0);
    naru_engine::Sampling {
        temperature: asked.temperature.or(defaults.temperature).unwrap_or(1.0),
        top_k: i32::try_from(top_k).unwrap_or(i32::MAX),
        top_p: asked.top_p.or(defaults.top_p).unwrap_or(1.0),
        min_p: asked.min_p.or(defaults.min_p).unwrap_or(0.0),
        repetition_penalty: asked.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
        presence_penalty: asked.presence_penalty,
        frequency_penalty: asked.frequency_penalty,
        logit_bias: asked.logit_bias.clone(),
        seed: asked.seed.map_or_else(clock::random_u64, i64::cast_unsigned),
        n: asked.n,
    }
}
