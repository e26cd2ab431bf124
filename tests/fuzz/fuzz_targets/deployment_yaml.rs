//! A file given to `naru up -f`: understood, or refused with what is wrong where.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_api::{Source, check};

fuzz_target!(|text: &str| {
    if let Err(problems) = check(&[Source { file: "fuzzed.yaml", text }]) {
        assert!(!problems.is_empty(), "a refusal says why");
    }
});
