//! A `tokenizer.json` from a stranger: read or refused; what it reads, it can encode with.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_engine::{EncodeOptions, Tokenizer};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_json(bytes, None) {
        let ids = tokenizer.encode("나루 ferry 🛶", EncodeOptions::default());
        let _ = tokenizer.decode(&ids, true);
    }
});
