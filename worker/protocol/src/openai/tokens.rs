//! `POST /tokenize` and `POST /detokenize`, in vLLM's shapes.

use serde::{Deserialize, Serialize};

use super::chat::TemplateInput;
use super::error::ApiError;
use super::read::facet;

/// What to tokenize.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizeInput {
    /// A plain text, with or without the tokenizer's own special tokens.
    Text {
        /// To be tokenized.
        prompt: String,
        /// Let the tokenizer add its special tokens; the default.
        add_special_tokens: bool,
    },
    /// A chat, rendered by the model's template first.
    Chat(Box<TemplateInput>),
}

/// A request to `/tokenize`.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    /// Any served model when absent.
    pub model: Option<String>,
    /// What to tokenize.
    pub input: TokenizeInput,
    /// Also send each token's text.
    pub return_token_strs: bool,
}

/// A request to `/detokenize`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DetokenizeRequest {
    /// Any served model when absent.
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// The answer of `/tokenize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenizeReply {
    /// Number of tokens.
    pub count: usize,
    /// Most tokens of prompt and answer together.
    pub max_model_len: usize,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Each token's text, if it was asked for.
    pub token_strs: Option<Vec<String>>,
}

/// The answer of `/detokenize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DetokenizeReply {
    /// The text of the tokens.
    pub prompt: String,
}

#[derive(Deserialize)]
struct TokenizeFields {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<serde::de::IgnoredAny>,
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}

impl TokenizeRequest {
    /// Reads a request body. Errors: 400 with the path of the field at fault.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields: TokenizeFields = facet(body)?;
        let input = match (fields.prompt, fields.messages) {
            (Some(_), Some(_)) => {
                let message = "give either `prompt` or `messages`";
                return Err(ApiError::invalid_value("prompt", message));
            }
            (Some(prompt), None) => TokenizeInput::Text {
                prompt,
                add_special_tokens: fields.add_special_tokens.unwrap_or(true),
            },
            (None, Some(_)) => TokenizeInput::Chat(Box::new(TemplateInput::read(body)?)),
            (None, None) => return Err(ApiError::missing("prompt")),
        };
        let return_token_strs = fields.return_token_strs.unwrap_or(false);
        Ok(Self { model: fields.model, input, return_token_strs })
    }
}

impl DetokenizeRequest {
    /// Reads a request body. Errors: 400 with the path of the field at fault.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        facet(body)
    }
}
