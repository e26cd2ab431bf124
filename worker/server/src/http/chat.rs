//! `POST /v1/chat/completions`.

use std::mem;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::HeaderMap;
use naru_engine::TokenOutput;
use naru_protocol::openai::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatMessage, ChatRequest,
    Usage,
};

use super::error::{Refused, from_submit};
use super::limits::read_body;
use super::stream::{self, Collected, EventWriter, Finish, Place, Writer, write_event};
use super::submit::{self, Common};
use super::{RequestId, Shared, json, logprobs, tenant_salt};
use crate::clock;

/// Answers a conversation.
pub(super) async fn create(
    State(http): State<Shared>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body = read_body(&headers, body, http.body_bytes_max).await?;
    let aside = Shared::clone(&http);
    let (request, prompt) = submit::aside(move || {
        let request = ChatRequest::read(&body)?;
        aside.check_model(&request.model)?;
        let prompt = submit::render(aside.ready()?, &request.template)?;
        Ok((request, prompt))
    })
    .await?;
    let served = http.ready()?;
    let ChatRequest { model, sampling, streaming, max_tokens, logprobs, .. } = request;
    let n = sampling.n;
    let salt = tenant_salt(&headers);
    let common =
        Common { sampling, max_tokens, logprobs, prompt_logprobs: None, tenant_salt: salt };
    let requests = common.requests(&served.drive, &served.defaults, vec![prompt]);
    let ids = requests.iter().map(|request| request.id).collect();
    let running =
        served.drive.submit(requests).await.map_err(|error| from_submit(error, "messages"))?;
    let head = Head { id: format!("chatcmpl-{}", id.0), created: clock::unix_seconds(), model };
    if streaming.stream {
        let usage = streaming.include_usage;
        let started = vec![false; n as usize];
        let writer = ChatEvents { http, head, usage, started, out: String::new() };
        return Ok(stream::respond(running, ids, streaming.include_usage, writer).await?);
    }
    let (collected, usage) = stream::collect(running, ids, n).await?;
    Ok(json(&whole(&http, head, collected, usage)))
}

struct Head {
    id: String,
    created: u64,
    model: String,
}

fn whole(http: &Shared, head: Head, collected: Collected, usage: Usage) -> ChatCompletion {
    let answers = collected.answers.into_iter().flatten();
    let served = http.member.served();
    let choice = |(index, answer): (usize, stream::Whole)| {
        let finish = answer.finish.expect("collected until every answer was over");
        ChatChoice {
            index: index as u32,
            message: ChatMessage { role: "assistant", content: answer.text, refusal: None },
            logprobs: served.and_then(|served| logprobs::chat(&served.tokenizer, &answer.tokens)),
            finish_reason: finish.reason,
            stop_reason: finish.stop_reason,
        }
    };
    ChatCompletion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        system_fingerprint: http.member.fingerprint.clone(),
        choices: answers.enumerate().map(choice).collect(),
        usage,
    }
}

/// Writes the chunks of a streamed chat.
struct ChatEvents {
    http: Shared,
    head: Head,
    usage: bool,
    /// Whether a choice's first chunk, the one with the role, was written.
    started: Vec<bool>,
    out: String,
}

impl ChatEvents {
    fn write(&mut self, choices: Vec<ChatChunkChoice>, usage: Option<Option<Usage>>) {
        let chunk = ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            system_fingerprint: self.http.member.fingerprint.clone(),
            choices,
            usage,
        };
        write_event(&mut self.out, &chunk);
    }

    fn write_choice(&mut self, choice: ChatChunkChoice) {
        let usage = self.usage.then_some(None);
        self.write(vec![choice], usage);
    }

    fn start(&mut self, index: u32) {
        if !mem::replace(&mut self.started[index as usize], true) {
            let delta = ChatDelta { role: Some("assistant"), content: Some(String::new()) };
            self.write_choice(chunk(index, delta));
        }
    }
}

fn chunk(index: u32, delta: ChatDelta) -> ChatChunkChoice {
    ChatChunkChoice { index, delta, logprobs: None, finish_reason: None, stop_reason: None }
}

impl Writer for ChatEvents {
    fn prompt(&mut self, _: usize, _: Vec<TokenOutput>) {}

    fn output(&mut self, place: Place, text: String, tokens: Vec<TokenOutput>) {
        self.start(place.choice);
        let served = self.http.member.served();
        let logprobs = served.and_then(|served| logprobs::chat(&served.tokenizer, &tokens));
        if text.is_empty() && logprobs.is_none() {
            return;
        }
        let delta = ChatDelta { role: None, content: Some(text) };
        self.write_choice(ChatChunkChoice { logprobs, ..chunk(place.choice, delta) });
    }

    fn finish(&mut self, place: Place, finish: Finish) {
        self.start(place.choice);
        let Finish { reason, stop_reason } = finish;
        let empty = chunk(place.choice, ChatDelta::default());
        self.write_choice(ChatChunkChoice { finish_reason: Some(reason), stop_reason, ..empty });
    }
}

impl EventWriter for ChatEvents {
    fn usage(&mut self, usage: Usage) {
        self.write(Vec::new(), Some(Some(usage)));
    }

    fn take(&mut self) -> String {
        mem::take(&mut self.out)
    }
}
