//! Errors as OpenAI shapes them, with the HTTP status each belongs to.

use serde::Serialize;

/// A refusal or failure, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {}", body.message)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// For `Retry-After`, in seconds.
    pub retry_after_seconds: Option<u32>,
    /// What the client reads.
    pub body: ErrorBody,
}

/// The object under `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// For a person.
    pub message: String,
    /// OpenAI's family of the error, e.g. `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path of the field at fault, e.g. `messages[0].content`.
    pub param: Option<String>,
    /// For a program.
    pub code: Option<&'static str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ErrorBody,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    fn new(
        status: u16,
        kind: &'static str,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        let body = ErrorBody { message: message.into(), kind, param: None, code };
        Self { status, retry_after_seconds: None, body }
    }

    fn at(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    /// 400: the body is not JSON, or not an object.
    pub fn invalid_json(message: impl Into<String>) -> Self {
        Self::new(400, INVALID, Some("invalid_json"), message)
    }

    /// 400: `param` has the wrong type.
    pub fn invalid_type(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(400, INVALID, Some("invalid_type"), message).at(param)
    }

    /// 400: `param` has the right type and a value that is not allowed.
    pub fn invalid_value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(400, INVALID, Some("invalid_value"), message).at(param)
    }

    /// 400: `param` has to be there.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("missing required parameter `{param}`");
        Self::new(400, INVALID, Some("missing_required_parameter"), message).at(param)
    }

    /// 400: `param` asks for something that exists elsewhere and not here.
    pub fn unsupported(param: impl Into<String>, why: &str) -> Self {
        let param = param.into();
        let message = format!("`{param}` is not supported: {why}");
        Self::new(400, INVALID, Some("unsupported_parameter"), message).at(param)
    }

    /// 400: prompt (and answer, if it was asked for with a length) do not fit the context.
    pub fn context_length_exceeded(
        param: &str,
        context_tokens_max: usize,
        prompt_tokens: usize,
        answer_tokens: usize,
    ) -> Self {
        let message = format!(
            "this model's maximum context length is {context_tokens_max} tokens, but the request \
             needs {} ({prompt_tokens} in the prompt, {answer_tokens} for the answer)",
            prompt_tokens.saturating_add(answer_tokens)
        );
        Self::new(400, INVALID, Some("context_length_exceeded"), message).at(param)
    }

    /// 400: HTTP without TLS, where TLS is spoken.
    pub fn tls_needed() -> Self {
        let message = "TLS is spoken here: ask with https:// instead of http://";
        Self::new(400, INVALID, Some("tls_needed"), message)
    }

    /// 401: no key, or one that nobody knows.
    pub fn invalid_api_key() -> Self {
        let message = "incorrect or missing API key: send `Authorization: Bearer KEY`";
        Self::new(401, INVALID, Some("invalid_api_key"), message)
    }

    /// 401: a key that was good until its day.
    pub fn expired_api_key() -> Self {
        let message = "this API key has expired: ask for a new one";
        Self::new(401, INVALID, Some("invalid_api_key"), message)
    }

    /// 403: a known key that may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, INVALID, Some("permission_denied"), message)
    }

    /// 404: no model of that name.
    pub fn model_not_found(model: &str) -> Self {
        let shown: String = model.chars().take(128).collect();
        let message = format!("the model `{shown}` does not exist or you may not use it");
        Self::new(404, INVALID, Some("model_not_found"), message).at("model")
    }

    /// 404: no such path.
    pub fn path_not_found() -> Self {
        Self::new(404, INVALID, Some("not_found"), "no such path; the API is under /v1")
    }

    /// 405: the path exists, the method does not.
    pub fn method_not_allowed() -> Self {
        let message = "this path does not take that method";
        Self::new(405, INVALID, Some("method_not_allowed"), message)
    }

    /// 408: the client sent its body too slowly.
    pub fn body_too_slow(seconds: u64) -> Self {
        let message = format!("the request body did not arrive within {seconds} s");
        Self::new(408, INVALID, Some("request_timeout"), message)
    }

    /// 413: the body is longer than this server reads.
    pub fn body_too_large(bytes_max: usize) -> Self {
        let message = format!("the request body is larger than {bytes_max} bytes");
        Self::new(413, INVALID, Some("request_too_large"), message)
    }

    /// 429: a quota is used up.
    pub fn rate_limited(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let error = Self::new(429, "rate_limit_error", Some("rate_limit_exceeded"), message);
        Self { retry_after_seconds: Some(retry_after_seconds), ..error }
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "server_error", Some("internal_error"), message)
    }

    /// 502: a worker went away before it had answered.
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(502, "server_error", Some("worker_failed"), message)
    }

    /// 503: no room, or nobody ready; worth trying again after `retry_after_seconds`.
    pub fn unavailable(
        code: &'static str,
        message: impl Into<String>,
        retry_after_seconds: u32,
    ) -> Self {
        let error = Self::new(503, "server_error", Some(code), message);
        Self { retry_after_seconds: Some(retry_after_seconds), ..error }
    }

    /// The JSON that goes into the body, or into the `data:` of a stream that failed midway.
    pub fn to_json(&self) -> String {
        let envelope = Envelope { error: &self.body };
        serde_json::to_string(&envelope).expect("strings always serialise")
    }
}
