//! `POST /v1/completions`.

use std::mem;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::HeaderMap;
use naru_engine::{EncodeOptions, TokenOutput};
use naru_protocol::openai::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, Prompt, Usage,
};

use super::error::{Refused, from_submit};
use super::limits::read_body;
use super::logprobs::Lists;
use super::stream::{self, EventWriter, Finish, Place, Writer, write_event};
use super::submit::{self, Common};
use super::{RequestId, Shared, json, tenant_salt};
use crate::clock;
use crate::member::Served;

/// Continues one or more prompts.
pub(super) async fn create(
    State(http): State<Shared>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body = read_body(&headers, body, http.body_bytes_max).await?;
    let aside = Shared::clone(&http);
    let (request, prompts) = submit::aside(move || {
        let mut request = CompletionRequest::read(&body)?;
        aside.check_model(&request.model)?;
        let prompts = prompt_tokens(aside.ready()?, &mut request);
        Ok((request, prompts))
    })
    .await?;
    let served = http.ready()?;
    let CompletionRequest { model, sampling, streaming, max_tokens, logprobs, echo, .. } = request;
    let n = sampling.n;
    let echo = echo.then(|| prompts.iter().map(|ids| Echo::new(served, ids)).collect());
    let common = Common {
        sampling,
        max_tokens: Some(max_tokens),
        logprobs,
        prompt_logprobs: logprobs.filter(|_| echo.is_some()),
        tenant_salt: tenant_salt(&headers),
    };
    let requests = common.requests(&served.drive, &served.defaults, prompts);
    let ids: Vec<_> = requests.iter().map(|request| request.id).collect();
    let running =
        served.drive.submit(requests).await.map_err(|error| from_submit(error, "prompt"))?;
    let head = Head {
        id: format!("cmpl-{}", id.0),
        created: clock::unix_seconds(),
        model,
        system_fingerprint: http.member.fingerprint.clone(),
    };
    let offsets = vec![0; ids.len() * n as usize];
    let pieces = Pieces { http, echo, n, offsets };
    if streaming.stream {
        let started = vec![false; pieces.offsets.len()];
        let usage = streaming.include_usage;
        let writer = CompletionEvents { head, pieces, started, usage, out: String::new() };
        return Ok(stream::respond(running, ids, streaming.include_usage, writer).await?);
    }
    let (collected, usage) = stream::collect(running, ids, n).await?;
    Ok(json(&whole(head, pieces, collected, usage)))
}

/// Tokenizes what is not yet; the texts are taken out of the request.
fn prompt_tokens(served: &Served, request: &mut CompletionRequest) -> Vec<Vec<u32>> {
    let options = EncodeOptions { add_special: request.add_special_tokens, parse_special: true };
    let ids = |prompt| match prompt {
        Prompt::Text(text) => served.tokenizer.encode(&text, options),
        Prompt::Ids(ids) => ids,
    };
    mem::take(&mut request.prompts).into_iter().map(ids).collect()
}

#[derive(Clone)]
struct Head {
    id: String,
    created: u64,
    model: String,
    system_fingerprint: Option<String>,
}

impl Head {
    fn completion(
        &self,
        choices: Vec<CompletionChoice>,
        usage: Option<Option<Usage>>,
    ) -> Completion {
        let Self { id, created, model, system_fingerprint } = self.clone();
        let object = "text_completion";
        Completion { id, object, created, model, system_fingerprint, choices, usage }
    }
}

/// A prompt that comes back in the answer.
struct Echo {
    text: String,
    tokens: Vec<TokenOutput>,
}

impl Echo {
    fn new(served: &Served, prompt: &[u32]) -> Self {
        let text = served.tokenizer.decode(prompt, true);
        let tokens = prompt.iter().map(|&id| TokenOutput { id, logprobs: None }).collect();
        Self { text, tokens }
    }

    /// Takes the log-probabilities of every token but the first.
    fn learn(&mut self, tokens: Vec<TokenOutput>) {
        self.tokens.truncate(1);
        self.tokens.extend(tokens);
    }
}

/// What both forms of the answer are made from.
struct Pieces {
    http: Shared,
    /// By prompt.
    echo: Option<Vec<Echo>>,
    n: u32,
    /// Characters so far, by answer.
    offsets: Vec<u64>,
}

impl Pieces {
    fn index(&self, place: Place) -> u32 {
        place.prompt as u32 * self.n + place.choice
    }

    fn echo(&self, place: Place) -> Option<&Echo> {
        self.echo.as_ref().map(|prompts| &prompts[place.prompt])
    }

    /// Log-probabilities of `tokens`, after those of the prompt if `first` and echoing.
    fn logprobs(
        &mut self,
        place: Place,
        first: bool,
        tokens: &[TokenOutput],
    ) -> Option<CompletionLogprobs> {
        let index = self.index(place) as usize;
        let echo = self.echo.as_ref().map(|prompts| &prompts[place.prompt]).filter(|_| first);
        let known = |token: &TokenOutput| token.logprobs.is_some();
        let echo = echo.filter(|echo| echo.tokens.iter().any(known));
        let mut lists = Lists::new(&self.http.member.served()?.tokenizer, &mut self.offsets[index]);
        for token in echo.map(|echo| &echo.tokens).into_iter().flatten() {
            lists.push(token);
        }
        for token in tokens.iter().filter(|token| known(token)) {
            lists.push(token);
        }
        lists.finish()
    }
}

fn whole(head: Head, mut pieces: Pieces, collected: stream::Collected, usage: Usage) -> Completion {
    if let Some(echoes) = &mut pieces.echo {
        for (echo, tokens) in echoes.iter_mut().zip(collected.prompts) {
            if !tokens.is_empty() {
                echo.learn(tokens);
            }
        }
    }
    let mut choices = Vec::new();
    for (prompt, answers) in collected.answers.into_iter().enumerate() {
        for (choice, answer) in answers.into_iter().enumerate() {
            let place = Place { prompt, choice: choice as u32 };
            let finish = answer.finish.expect("collected until every answer was over");
            let echo = pieces.echo(place).map_or("", |echo| echo.text.as_str());
            let text = format!("{echo}{}", answer.text);
            choices.push(CompletionChoice {
                index: pieces.index(place),
                text,
                logprobs: pieces.logprobs(place, true, &answer.tokens),
                finish_reason: Some(finish.reason),
                stop_reason: finish.stop_reason,
            });
        }
    }
    head.completion(choices, Some(Some(usage)))
}

/// Writes the events of a streamed completion.
struct CompletionEvents {
    head: Head,
    pieces: Pieces,
    /// Whether an answer's first event, the one with the echo, was written.
    started: Vec<bool>,
    usage: bool,
    out: String,
}

impl CompletionEvents {
    fn write(&mut self, place: Place, text: String, tokens: &[TokenOutput], end: Option<Finish>) {
        let index = self.pieces.index(place);
        let first = !mem::replace(&mut self.started[index as usize], true);
        let echo = self.pieces.echo(place).filter(|_| first).map_or("", |echo| echo.text.as_str());
        let text = format!("{echo}{text}");
        let logprobs = self.pieces.logprobs(place, first, tokens);
        if text.is_empty() && logprobs.is_none() && end.is_none() {
            return;
        }
        let (finish_reason, stop_reason) =
            end.map_or((None, None), |end| (Some(end.reason), end.stop_reason));
        let choice = CompletionChoice { index, text, logprobs, finish_reason, stop_reason };
        let event = self.head.completion(vec![choice], self.usage.then_some(None));
        write_event(&mut self.out, &event);
    }
}

impl Writer for CompletionEvents {
    fn prompt(&mut self, prompt: usize, tokens: Vec<TokenOutput>) {
        if let Some(echoes) = &mut self.pieces.echo {
            echoes[prompt].learn(tokens);
        }
    }

    fn output(&mut self, place: Place, text: String, tokens: Vec<TokenOutput>) {
        self.write(place, text, &tokens, None);
    }

    fn finish(&mut self, place: Place, finish: Finish) {
        self.write(place, String::new(), &[], Some(finish));
    }
}

impl EventWriter for CompletionEvents {
    fn usage(&mut self, usage: Usage) {
        let event = self.head.completion(Vec::new(), Some(Some(usage)));
        write_event(&mut self.out, &event);
    }

    fn take(&mut self) -> String {
        mem::take(&mut self.out)
    }
}
