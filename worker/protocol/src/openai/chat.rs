//! `POST /v1/chat/completions`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::message::{self, Message};
use super::read::{Object, facet};
use super::refused::Refused;
use super::sampling::{LOGPROBS_MAX, Sampling, SamplingFields, Streaming, StreamingFields};

/// A chat request that passed every check that needs no model.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model asked for.
    pub model: String,
    /// What the template turns into a prompt.
    pub template: TemplateInput,
    /// How the answer is drawn.
    pub sampling: Sampling,
    /// Whether it is streamed.
    pub streaming: Streaming,
    /// Most tokens of the answer; `None` is the rest of the context.
    pub max_tokens: Option<u32>,
    /// `Some(k)`: log-probabilities of the drawn tokens and of the `k` likeliest.
    pub logprobs: Option<u32>,
}

/// Everything a chat template is given; shared by chat and `/tokenize`.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateInput {
    /// At least one.
    pub messages: Vec<Message>,
    /// As the client wrote them; `None` when there are none or `tool_choice` is `none`.
    pub tools: Option<Value>,
    /// For templates that ground answers in documents.
    pub documents: Option<Value>,
    /// End the prompt where the assistant begins to speak; the default.
    pub add_generation_prompt: bool,
    /// Leave the last message open, so that the answer continues it.
    pub continue_final_message: bool,
    /// Let the tokenizer add its own special tokens around the rendered prompt; not the default.
    pub add_special_tokens: bool,
    /// More variables for the template.
    pub kwargs: Map<String, Value>,
}

#[derive(Deserialize)]
struct ChatFields {
    model: String,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    echo: Option<bool>,
    reasoning_effort: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct TemplateFields {
    messages: Vec<Object<message::Written>>,
    tools: Option<Vec<Object<Tool>>>,
    tool_choice: Option<Value>,
    documents: Option<Vec<Object<Map<String, Value>>>>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    add_special_tokens: Option<bool>,
    chat_template_kwargs: Option<Object<Map<String, Value>>>,
}

#[derive(Deserialize)]
struct Tool {
    #[serde(rename = "type")]
    kind: String,
    function: Object<ToolFunction>,
}

#[derive(Deserialize)]
struct ToolFunction {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "parameters")]
    _parameters: Option<Object<Map<String, Value>>>,
    strict: Option<bool>,
}

impl ChatRequest {
    /// Reads a request body. Errors: 400 with the path of the field at fault.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields: ChatFields = facet(body)?;
        let mut template = TemplateInput::read(body)?;
        facet::<Refused>(body)?.check()?;
        if fields.echo == Some(true) {
            return Err(ApiError::unsupported("echo", "only completions can echo their prompt"));
        }
        if let Some(effort) = fields.reasoning_effort {
            template.kwargs.entry("reasoning_effort").or_insert(effort.into());
        }
        let max_tokens = fields.max_completion_tokens.or(fields.max_tokens);
        if max_tokens == Some(0) {
            let message = "`max_tokens` must be at least 1";
            return Err(ApiError::invalid_value("max_tokens", message));
        }
        let sampling = facet::<SamplingFields>(body)?.check()?;
        sampling.check_min_tokens(max_tokens)?;
        Ok(Self {
            model: fields.model,
            template,
            sampling,
            streaming: facet::<StreamingFields>(body)?.check()?,
            max_tokens,
            logprobs: check_logprobs(fields.logprobs, fields.top_logprobs)?,
        })
    }
}

fn check_logprobs(logprobs: Option<bool>, top: Option<u32>) -> Result<Option<u32>, ApiError> {
    match (logprobs.unwrap_or(false), top) {
        (_, Some(top)) if top > LOGPROBS_MAX => {
            let message = format!("`top_logprobs` must be within 0..={LOGPROBS_MAX}");
            Err(ApiError::invalid_value("top_logprobs", message))
        }
        (false, Some(top)) if top > 0 => {
            Err(ApiError::invalid_value("top_logprobs", "`top_logprobs` needs `logprobs: true`"))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0))),
    }
}

impl TemplateInput {
    /// Reads the facet that a chat template needs. Errors: 400 with the path of the field.
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields: TemplateFields = facet(body)?;
        let messages = message::check(fields.messages)?;
        let continue_final_message = fields.continue_final_message.unwrap_or(false);
        // vLLM's default for the one is true; the two together make no sense.
        let add_generation_prompt = fields.add_generation_prompt.unwrap_or(!continue_final_message);
        if continue_final_message && add_generation_prompt {
            let message = "`continue_final_message` and `add_generation_prompt` exclude each other";
            return Err(ApiError::invalid_value("continue_final_message", message));
        }
        let wants_tools = fields.tool_choice.as_ref().and_then(Value::as_str) != Some("none");
        let has_tools = check_tools(fields.tools.as_deref().unwrap_or_default())? && wants_tools;
        let documents = fields.documents.filter(|list| !list.is_empty());
        Ok(Self {
            messages,
            tools: if has_tools { raw(body)?.tools } else { None },
            documents: documents
                .map(|list| list.into_iter().map(|Object(one)| Value::Object(one)).collect()),
            add_generation_prompt,
            continue_final_message,
            add_special_tokens: fields.add_special_tokens.unwrap_or(false),
            kwargs: fields.chat_template_kwargs.map(|Object(map)| map).unwrap_or_default(),
        })
    }
}

/// The tools exactly as written: a template may look at keys that OpenAI does not define.
#[derive(Deserialize)]
struct RawTools {
    tools: Option<Value>,
}

fn raw(body: &[u8]) -> Result<RawTools, ApiError> {
    facet(body)
}

/// Whether there is any tool. Errors: a kind of tool, or a promise, that is not kept here.
fn check_tools(tools: &[Object<Tool>]) -> Result<bool, ApiError> {
    for (index, Object(tool)) in tools.iter().enumerate() {
        if tool.kind != "function" {
            let path = format!("tools[{index}].type");
            return Err(ApiError::unsupported(path, "only tools of type `function` exist here"));
        }
        if tool.function.0.strict == Some(true) {
            let path = format!("tools[{index}].function.strict");
            return Err(ApiError::unsupported(path, "structured output is not enforced yet"));
        }
    }
    Ok(!tools.is_empty())
}
