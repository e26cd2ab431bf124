//! `POST /tokenize` and `POST /detokenize`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use naru_engine::EncodeOptions;
use naru_protocol::openai::{
    ApiError, DetokenizeReply, DetokenizeRequest, TokenizeInput, TokenizeReply, TokenizeRequest,
};

use super::error::Refused;
use super::limits::read_body;
use super::{Shared, json, submit};

/// Token ids of a text or of a chat.
pub(super) async fn tokenize(
    State(http): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body = read_body(&headers, body, http.body_bytes_max).await?;
    submit::aside(move || {
        let request = TokenizeRequest::read(&body)?;
        let served = http.ready()?;
        request.model.as_deref().map_or(Ok(()), |model| http.check_model(model))?;
        let tokens = match &request.input {
            TokenizeInput::Text { prompt, add_special_tokens } => {
                let options =
                    EncodeOptions { add_special: *add_special_tokens, parse_special: true };
                served.tokenizer.encode(prompt, options)
            }
            TokenizeInput::Chat(input) => submit::render(served, input)?,
        };
        let text = |&id: &u32| served.tokenizer.token_text(id);
        let token_strs = request.return_token_strs.then(|| tokens.iter().map(text).collect());
        let max_model_len = served.context_tokens_max;
        Ok(json(&TokenizeReply { count: tokens.len(), max_model_len, tokens, token_strs }))
    })
    .await
}

/// The text of token ids.
pub(super) async fn detokenize(
    State(http): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body = read_body(&headers, body, http.body_bytes_max).await?;
    submit::aside(move || {
        let request = DetokenizeRequest::read(&body)?;
        let served = http.ready()?;
        request.model.as_deref().map_or(Ok(()), |model| http.check_model(model))?;
        let vocab_size = served.tokenizer.vocab_size();
        let outside = |&id: &u32| id as usize >= vocab_size;
        if let Some(at) = request.tokens.iter().position(outside) {
            let message = format!("`tokens[{at}]` is outside of the vocabulary of {vocab_size}");
            return Err(ApiError::invalid_value(format!("tokens[{at}]"), message));
        }
        Ok(json(&DetokenizeReply { prompt: served.tokenizer.decode(&request.tokens, false) }))
    })
    .await
}
