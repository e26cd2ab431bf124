//! A body sent to `/v1/completions`, `/tokenize` or `/detokenize`: read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_protocol::openai::{CompletionRequest, DetokenizeRequest, TokenizeRequest};

fuzz_target!(|body: &[u8]| {
    let answers = [
        CompletionRequest::read(body).err(),
        TokenizeRequest::read(body).err(),
        DetokenizeRequest::read(body).err(),
    ];
    for refused in answers.into_iter().flatten() {
        assert!(refused.to_json().starts_with("{\"error\":"), "OpenAI's shape");
    }
});
