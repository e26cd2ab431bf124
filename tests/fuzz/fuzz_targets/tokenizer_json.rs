//! A `tokenizer.json` from a stranger: read or refused; what it reads, it can encode with.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_engine::{EncodeOptions, Tokenizer, TokenizerFiles};

fuzz_target!(|bytes: &[u8]| {
    let files = TokenizerFiles {
        tokenizer: bytes,
        tokenizer_config: None,
        generation_config: None,
        config: None,
    };
    if let Ok(tokenizer) = Tokenizer::from_json(&files) {
        let ids = tokenizer.encode("나루 ferry 🛶", EncodeOptions::default());
        let _ = tokenizer.decode(&ids, true);
    }
});
