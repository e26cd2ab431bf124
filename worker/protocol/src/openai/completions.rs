//! `POST /v1/completions`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use super::error::ApiError;
use super::read::{TextOr, facet};
use super::refused::Refused;
use super::sampling::{LOGPROBS_MAX, N_MAX, Sampling, SamplingFields, Streaming, StreamingFields};

/// Tokens of an answer whose length was not asked for: OpenAI's default.
const MAX_TOKENS_DEFAULT: u32 = 16;

/// A completion request that passed every check that needs no model.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The model asked for.
    pub model: String,
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// How the answers are drawn.
    pub sampling: Sampling,
    /// Whether they are streamed.
    pub streaming: Streaming,
    /// Most tokens of each answer; 0 only together with `echo`.
    pub max_tokens: u32,
    /// `Some(k)`: log-probabilities of the drawn tokens and of the `k` likeliest.
    pub logprobs: Option<u32>,
    /// The answer's text begins with the prompt's.
    pub echo: bool,
    /// Let the tokenizer add its own special tokens; the default.
    pub add_special_tokens: bool,
}

/// One prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// To be tokenized.
    Text(String),
    /// Already tokenized.
    Ids(Vec<u32>),
}

#[derive(Deserialize)]
struct CompletionFields {
    model: String,
    prompt: TextOr<Item>,
    max_tokens: Option<u32>,
    logprobs: Option<u32>,
    echo: Option<bool>,
    best_of: Option<u32>,
    add_special_tokens: Option<bool>,
}

/// One element of an array of prompts.
enum Item {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Item;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string, a token id or an array of token ids")
            }
            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.to_owned()))
            }
            fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
                u32::try_from(id).map(Item::Id).map_err(|_| E::custom("no token has such an id"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = list.next_element()? {
                    ids.push(id);
                }
                Ok(Item::Ids(ids))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl CompletionRequest {
    /// Reads a request body. Errors: 400 with the path of the field at fault.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields: CompletionFields = facet(body)?;
        facet::<Refused>(body)?.check()?;
        let sampling = facet::<SamplingFields>(body)?.check()?;
        let echo = fields.echo.unwrap_or(false);
        let max_tokens = fields.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT);
        if max_tokens == 0 && !echo {
            let message = "`max_tokens` must be at least 1 (0 needs `echo`)";
            return Err(ApiError::invalid_value("max_tokens", message));
        }
        sampling.check_min_tokens(Some(max_tokens))?;
        if fields.logprobs.is_some_and(|top| top > LOGPROBS_MAX) {
            let message = format!("`logprobs` must be within 0..={LOGPROBS_MAX}");
            return Err(ApiError::invalid_value("logprobs", message));
        }
        if fields.best_of.is_some_and(|best_of| best_of != sampling.n) {
            return Err(ApiError::unsupported("best_of", "only the value of `n` is"));
        }
        Ok(Self {
            model: fields.model,
            prompts: check_prompts(fields.prompt, sampling.n)?,
            sampling,
            streaming: facet::<StreamingFields>(body)?.check()?,
            max_tokens,
            logprobs: fields.logprobs,
            echo,
            add_special_tokens: fields.add_special_tokens.unwrap_or(true),
        })
    }
}

/// Most answers (prompts times `n`) of one request.
const ANSWERS_MAX: usize = 256;

fn check_prompts(written: TextOr<Item>, n: u32) -> Result<Vec<Prompt>, ApiError> {
    let refuse = |message: &str| ApiError::invalid_value("prompt", message);
    let prompts = match written {
        TextOr::Text(text) => vec![Prompt::Text(text)],
        TextOr::List(items) if matches!(items.first(), Some(Item::Id(_))) => {
            let id = |item| match item {
                Item::Id(id) => Ok(id),
                _ => Err(refuse("`prompt` mixes token ids with something else")),
            };
            vec![Prompt::Ids(items.into_iter().map(id).collect::<Result<_, _>>()?)]
        }
        TextOr::List(items) => {
            let prompt = |item| match item {
                Item::Text(text) => Ok(Prompt::Text(text)),
                Item::Ids(ids) => Ok(Prompt::Ids(ids)),
                Item::Id(_) => Err(refuse("`prompt` mixes token ids with something else")),
            };
            items.into_iter().map(prompt).collect::<Result<_, _>>()?
        }
    };
    if prompts.is_empty() {
        return Err(refuse("`prompt` must not be empty"));
    }
    if prompts.iter().any(|prompt| matches!(prompt, Prompt::Ids(ids) if ids.is_empty())) {
        return Err(refuse("a prompt of token ids must not be empty"));
    }
    debug_assert!(n <= N_MAX, "sampling was checked before");
    if prompts.len() * n as usize > ANSWERS_MAX {
        return Err(refuse(&format!("prompts times `n` must be at most {ANSWERS_MAX}")));
    }
    Ok(prompts)
}
