//! A body sent to `/v1/chat/completions`: read, or refused in OpenAI's shape.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_protocol::openai::{ChatRequest, read_head};

fuzz_target!(|body: &[u8]| {
    let _ = read_head(body);
    if let Err(refused) = ChatRequest::read(body) {
        assert!(refused.to_json().starts_with("{\"error\":"), "OpenAI's shape");
    }
});
