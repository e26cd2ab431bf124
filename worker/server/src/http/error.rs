//! Refusals on their way out.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use naru_engine::Refusal;
use naru_protocol::openai::ApiError;

use crate::drive::SubmitError;

/// Seconds after which a client that found no place may try again.
const RETRY_SECONDS: u32 = 1;

/// An [`ApiError`] as an answer.
#[derive(Debug)]
pub(super) struct Refused(pub(super) ApiError);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status =
            StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(error.to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = error.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// 503 for requests that come while the model is not loaded.
pub(super) fn not_ready() -> ApiError {
    ApiError::unavailable("model_not_ready", "the model is still loading", RETRY_SECONDS)
}

/// 503 for requests whose replica has lost a rank, while nothing of their answer has gone out.
pub(super) fn apart() -> ApiError {
    let words = "the model is on several machines, and one of them was lost";
    ApiError::unavailable("model_not_ready", words, RETRY_SECONDS)
}

/// 503 for requests that come too late.
pub(super) fn draining() -> ApiError {
    ApiError::unavailable("draining", "this server is shutting down", RETRY_SECONDS)
}

/// What the engine's refusal means to a client. `prompt` is the field that the prompt came in.
pub(super) fn from_submit(error: SubmitError, prompt: &str) -> ApiError {
    let refusal = match error {
        SubmitError::Refused(refusal) => refusal,
        SubmitError::Full => return busy(),
        SubmitError::Stopped => return draining(),
    };
    match refusal {
        Refusal::EmptyPrompt => ApiError::invalid_value(prompt, "the prompt has no tokens"),
        Refusal::ContextOverflow { prompt_tokens, max_tokens, context_tokens } => {
            ApiError::context_length_exceeded(prompt, context_tokens, prompt_tokens, max_tokens)
        }
        Refusal::TokenOutsideVocabulary { token, vocab_size } => {
            let message = format!("token {token} is outside of the vocabulary of {vocab_size}");
            ApiError::invalid_value(prompt, message)
        }
        Refusal::Sampling(error) => {
            let message = format!("`{}` {}", error.param, error.reason);
            ApiError::invalid_value(error.param, message)
        }
        Refusal::QueueFull { .. } => busy(),
        Refusal::DuplicateId(_) => ApiError::internal("a request id was given out twice"),
    }
}

/// 503 when there is no room.
pub(super) fn busy() -> ApiError {
    ApiError::unavailable("overloaded", "too many requests are waiting", RETRY_SECONDS)
}
