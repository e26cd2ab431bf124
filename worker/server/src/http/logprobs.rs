//! Log-probabilities in the shapes of the two endpoints.

use naru_engine::{TokenOutput, Tokenizer};
use naru_protocol::openai::{ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob};
use serde_json::Map;

/// JSON has no infinity; vLLM writes this for a token that cannot happen.
const LOGPROB_MIN: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    logprob.max(LOGPROB_MIN)
}

/// For a chat. `None` if they were not asked for.
pub(super) fn chat(tokenizer: &Tokenizer, tokens: &[TokenOutput]) -> Option<ChatLogprobs> {
    let one = |token: &TokenOutput| {
        let known = token.logprobs.as_ref()?;
        let top = known.top.iter().map(|&(id, logprob)| TopLogprob {
            token: tokenizer.token_text(id),
            logprob: finite(logprob),
            bytes: tokenizer.token_bytes(id).to_vec(),
        });
        Some(TokenLogprob {
            token: tokenizer.token_text(token.id),
            logprob: finite(known.logprob),
            bytes: tokenizer.token_bytes(token.id).to_vec(),
            top_logprobs: top.collect(),
        })
    };
    let content: Option<Vec<TokenLogprob>> = tokens.iter().map(one).collect();
    content.filter(|content| !content.is_empty()).map(|content| ChatLogprobs { content })
}

/// For a completion, token by token; `offset` counts the characters so far.
pub(super) struct Lists<'a> {
    tokenizer: &'a Tokenizer,
    offset: &'a mut u64,
    lists: CompletionLogprobs,
}

impl<'a> Lists<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, offset: &'a mut u64) -> Self {
        Self { tokenizer, offset, lists: CompletionLogprobs::default() }
    }

    /// Adds a token; without log-probabilities it is the first of a prompt, which has none.
    pub(super) fn push(&mut self, token: &TokenOutput) {
        let text = self.tokenizer.token_text(token.id);
        let lists = &mut self.lists;
        lists.text_offset.push(*self.offset);
        *self.offset += text.chars().count() as u64;
        let known = token.logprobs.as_ref();
        lists.token_logprobs.push(known.map(|known| finite(known.logprob)));
        lists.top_logprobs.push(known.map(|known| {
            let mut top = Map::new();
            // Two tokens may share a text, being parts of characters: the likelier one stays.
            for &(id, logprob) in &known.top {
                let text = self.tokenizer.token_text(id);
                top.entry(text).or_insert_with(|| finite(logprob).into());
            }
            // OpenAI lists the drawn token too, likely or not.
            top.entry(text.clone()).or_insert_with(|| finite(known.logprob).into());
            top
        }));
        lists.tokens.push(text);
    }

    /// `None` if nothing was added.
    pub(super) fn finish(self) -> Option<CompletionLogprobs> {
        Some(self.lists).filter(|lists| !lists.tokens.is_empty())
    }
}
