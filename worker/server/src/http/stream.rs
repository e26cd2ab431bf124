//! Answers on their way out: collected whole, or written as server-sent events.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use naru_engine::{Event, FinishReason, RequestId, StopReason, TokenOutput};
use naru_protocol::openai::{ApiError, PromptTokensDetails, Usage};
use serde::Serialize;
use serde_json::Value;

use super::error::{apart, draining};
use crate::drive::Running;

/// Which answer: of which of the prompts, and which of its `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) prompt: usize,
    pub(super) choice: u32,
}

/// How an answer ended.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    pub(super) reason: &'static str,
    pub(super) stop_reason: Option<Value>,
}

/// Takes an answer apart as it comes: a whole answer keeps the pieces, a stream writes them.
pub(super) trait Writer: Send + 'static {
    /// Log-probabilities of a prompt, before anything else of it.
    fn prompt(&mut self, prompt: usize, tokens: Vec<TokenOutput>);
    /// An answer goes on.
    fn output(&mut self, place: Place, text: String, tokens: Vec<TokenOutput>);
    /// An answer is over.
    fn finish(&mut self, place: Place, finish: Finish);
}

/// A writer of server-sent events.
pub(super) trait EventWriter: Writer {
    /// The last event.
    fn usage(&mut self, usage: Usage);
    /// What was written since the last call.
    fn take(&mut self) -> String;
}

/// The events of one HTTP request, sorted by prompt, with what they cost.
struct Answers {
    running: Running,
    ids: Vec<RequestId>,
    usage: Usage,
}

impl Answers {
    /// Feeds the events that have come to `writer`, waiting for the first. `Ok(false)`: all over.
    async fn feed(&mut self, writer: &mut impl Writer) -> Result<bool, ApiError> {
        let mut events = Vec::new();
        if !self.running.next(&mut events).await {
            if self.running.all_over() {
                return Ok(false);
            }
            return Err(ApiError::internal("the engine has stopped"));
        }
        for event in events {
            self.feed_one(event, writer)?;
        }
        Ok(true)
    }

    fn feed_one(&mut self, event: Event, writer: &mut impl Writer) -> Result<(), ApiError> {
        let position = |id: RequestId| {
            self.ids.iter().position(|&one| one == id).expect("events come to whom they belong")
        };
        match event {
            Event::Scheduled { .. } => {}
            Event::Prompt { id, tokens } => writer.prompt(position(id), tokens),
            Event::Output { id, choice, text, tokens } => {
                writer.output(Place { prompt: position(id), choice }, text, tokens);
            }
            Event::Failed { elsewhere: true, .. } => return Err(apart()),
            Event::Failed { .. } => return Err(ApiError::internal("the engine failed")),
            Event::Finished { id, choice, reason, stop_reason, usage, last } => {
                let reason = match reason {
                    FinishReason::Stop => "stop",
                    FinishReason::Length => "length",
                    FinishReason::Cancelled => return Err(draining()),
                };
                let stop_reason = stop_reason.map(|stop| match stop {
                    StopReason::String(text) => text.into(),
                    StopReason::Token(id) => id.into(),
                });
                let place = Place { prompt: position(id), choice };
                writer.finish(place, Finish { reason, stop_reason });
                self.count(usage, last);
            }
        }
        Ok(())
    }

    /// The prompt is the same for every choice and counts once.
    fn count(&mut self, usage: naru_engine::Usage, last: bool) {
        self.usage.completion_tokens += usage.completion_tokens as u64;
        if last {
            self.usage.prompt_tokens += usage.prompt_tokens as u64;
            let PromptTokensDetails { cached_tokens } = &mut self.usage.prompt_tokens_details;
            *cached_tokens += usage.cached_tokens as u64;
        }
        self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
    }
}

/// One whole answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Whole {
    pub(super) text: String,
    pub(super) tokens: Vec<TokenOutput>,
    pub(super) finish: Option<Finish>,
}

/// Whole answers, and what was asked to be known of the prompts.
#[derive(Debug, Clone)]
pub(super) struct Collected {
    /// By prompt, then by choice.
    pub(super) answers: Vec<Vec<Whole>>,
    /// By prompt; empty if not asked for.
    pub(super) prompts: Vec<Vec<TokenOutput>>,
}

impl Writer for Collected {
    fn prompt(&mut self, prompt: usize, tokens: Vec<TokenOutput>) {
        self.prompts[prompt] = tokens;
    }
    fn output(&mut self, place: Place, text: String, tokens: Vec<TokenOutput>) {
        let whole = &mut self.answers[place.prompt][place.choice as usize];
        whole.text.push_str(&text);
        whole.tokens.extend(tokens);
    }
    fn finish(&mut self, place: Place, finish: Finish) {
        self.answers[place.prompt][place.choice as usize].finish = Some(finish);
    }
}

/// Waits for every answer. Errors: the engine failed or the server is going down.
pub(super) async fn collect(
    running: Running,
    ids: Vec<RequestId>,
    n: u32,
) -> Result<(Collected, Usage), ApiError> {
    let mut collected = Collected {
        answers: vec![vec![Whole::default(); n as usize]; ids.len()],
        prompts: vec![Vec::new(); ids.len()],
    };
    let mut answers = Answers { running, ids, usage: Usage::default() };
    while answers.feed(&mut collected).await? {}
    Ok((collected, answers.usage))
}

struct Sse<W> {
    answers: Answers,
    writer: W,
    include_usage: bool,
    over: bool,
}

/// Streams what `writer` makes of the events, from the first on. A client that leaves drops the
/// stream, and with it the requests. Errors: nothing was written yet, so the answer's status can
/// still say what is wrong, and somebody else can still answer.
pub(super) async fn respond<W: EventWriter>(
    running: Running,
    ids: Vec<RequestId>,
    include_usage: bool,
    writer: W,
) -> Result<Response, ApiError> {
    let answers = Answers { running, ids, usage: Usage::default() };
    let mut sse = Sse { answers, writer, include_usage, over: false };
    let first = sse.next().await?;
    let rest = futures::stream::unfold(sse, |mut sse| async move {
        let text = match sse.next().await {
            Ok(text) => text?,
            Err(error) => {
                sse.over = true;
                format!("{}data: {}\n\n", sse.writer.take(), error.to_json())
            }
        };
        Some((text, sse))
    });
    let stream = futures::stream::iter(first).chain(rest);
    let stream = stream.map(|text| Ok::<_, Infallible>(Bytes::from(text)));
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Some proxies would otherwise collect the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl<W: EventWriter> Sse<W> {
    /// What comes next; None after the last. Errors: nothing more will come.
    async fn next(&mut self) -> Result<Option<String>, ApiError> {
        while !self.over {
            if !self.answers.feed(&mut self.writer).await? {
                self.over = true;
                if self.include_usage {
                    self.writer.usage(self.answers.usage);
                }
                return Ok(Some(self.writer.take() + "data: [DONE]\n\n"));
            }
            let text = self.writer.take();
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }
}

/// Appends one server-sent event.
pub(super) fn write_event(out: &mut String, event: &impl Serialize) {
    out.push_str("data: ");
    out.push_str(&serde_json::to_string(event).expect("answers always serialise"));
    out.push_str("\n\n");
}
