//! Answers, whole and streamed. Fields that OpenAI always sends are always there, `null` included.

use serde::Serialize;

/// Tokens that were read and written for one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Of all prompts.
    pub prompt_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// Of all choices.
    pub completion_tokens: u64,
    /// What of the prompt came from the prefix cache.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// Part of [`Usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Tokens whose keys and values were cached already.
    pub cached_tokens: u64,
}

/// The answer to a chat request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatCompletion {
    /// `chatcmpl-…`
    pub id: String,
    /// `chat.completion`
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// What made the answer, where that is worth saying: `sim-…` if nothing was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// One for each of `n`.
    pub choices: Vec<ChatChoice>,
    /// Tokens read and written.
    pub usage: Usage,
}

/// One answer of a [`ChatCompletion`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChoice {
    /// Which of `n`.
    pub index: u32,
    /// What was said.
    pub message: ChatMessage,
    /// If they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
    /// vLLM's: the stop string or token id that ended the answer.
    pub stop_reason: Option<serde_json::Value>,
}

/// What the assistant said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// `assistant`
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Always `null`: no refusals are told apart here.
    pub refusal: Option<String>,
}

/// One event of a streamed chat answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChunk {
    /// The same in every event of one answer.
    pub id: String,
    /// `chat.completion.chunk`
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// What made the answer, where that is worth saying: `sim-…` if nothing was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// One, or none in the event with the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// `null` in every event but the last, and left out unless it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// What one event adds to one answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChunkChoice {
    /// Which of `n`.
    pub index: u32,
    /// What is new.
    pub delta: ChatDelta,
    /// Of the new tokens, if they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `null` until the end.
    pub finish_reason: Option<&'static str>,
    /// vLLM's, in the last event of a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<serde_json::Value>,
}

/// New text, or the role in the first event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChatDelta {
    /// `assistant`, in the first event of a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// New text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// Log-probabilities of a chat answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ChatLogprobs {
    /// One for each token.
    pub content: Vec<TokenLogprob>,
}

/// One drawn token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// Its text; bytes that are no UTF-8 become U+FFFD.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the likeliest tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The answer to a completion request, and each event of a streamed one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Completion {
    /// `cmpl-…`
    pub id: String,
    /// `text_completion`
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// What made the answer, where that is worth saying: `sim-…` if nothing was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// One for each prompt and each of `n`.
    pub choices: Vec<CompletionChoice>,
    /// Whole answers: always. Events: as in [`ChatChunk::usage`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// One answer of a [`Completion`], or what an event adds to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionChoice {
    /// Prompt number times `n` plus the number of the answer.
    pub index: u32,
    /// The text, or the new text.
    pub text: String,
    /// If they were asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; `null` in events before the last.
    pub finish_reason: Option<&'static str>,
    /// vLLM's: the stop string or token id that ended the answer.
    pub stop_reason: Option<serde_json::Value>,
}

/// Log-probabilities of a completion: four lists of one length.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CompletionLogprobs {
    /// Characters before each token in the answer's text.
    pub text_offset: Vec<u64>,
    /// Of each token, natural logarithm.
    pub token_logprobs: Vec<Option<f32>>,
    /// Each token's text.
    pub tokens: Vec<String>,
    /// The likeliest tokens at each place, by text.
    pub top_logprobs: Vec<Option<serde_json::Map<String, serde_json::Value>>>,
}

/// `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelList {
    /// `list`
    pub object: &'static str,
    /// One for each served name.
    pub data: Vec<Model>,
}

impl ModelList {
    /// A list of `models`.
    pub fn new(models: Vec<Model>) -> Self {
        Self { object: "list", data: models }
    }
}

/// `GET /v1/models/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Model {
    /// The served name.
    pub id: String,
    /// `model`
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// `naru`, or `naru-sim` if it is only simulated
    pub owned_by: &'static str,
    /// vLLM's: most tokens of prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u64>,
}

impl Model {
    /// A model that is served under `id` since `created` (Unix seconds).
    pub fn new(id: impl Into<String>, created: u64) -> Self {
        Self { id: id.into(), object: "model", created, owned_by: "naru", max_model_len: None }
    }
}
