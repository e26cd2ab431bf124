//! The tokenizers of both real checkpoints give the ids that llama.cpp gives, for texts of every
//! awkward kind (`make_ids.py` beside the fixture asked it), and their tokens stream back as text.

#![allow(clippy::unwrap_used, clippy::panic)]

mod checkpoints;

use checkpoints::{QWEN, SMOLLM2};
use naru_engine::{Detokenizer, EncodeOptions, Tokenizer};
use serde_json::Value;

const FIXTURE: &str = include_str!("tokenizer/ids.json");

/// The tokenizer of the real checkpoint `file`.
fn tokenizer(file: &str) -> Tokenizer {
    Tokenizer::of_model(&checkpoints::open(file)).unwrap()
}

fn check(model: &str, tokenizer: &Tokenizer) {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    let rows = fixture[model].as_array().unwrap();
    for (text, row) in fixture["texts"].as_array().unwrap().iter().zip(rows) {
        let text = text.as_str().unwrap();
        for (parse_special, ids) in [false, true].into_iter().zip(row.as_array().unwrap()) {
            let options = EncodeOptions { add_special: false, parse_special };
            let ours = tokenizer.encode(text, options);
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(ours, ids, "{model}: {text:?} {options:?}");
            stream(tokenizer, &ours);
        }
    }
}

/// The ids' bytes, token by token, come out as the text of them all.
fn stream(tokenizer: &Tokenizer, ids: &[u32]) {
    let mut detokenizer = Detokenizer::new();
    let mut text = String::new();
    for &id in ids {
        text += &detokenizer.push(tokenizer.token_bytes(id));
    }
    text += &detokenizer.finish();
    assert_eq!(text, tokenizer.decode(ids, false));
}

#[test]
fn smollm2_gives_the_ids_of_llama_cpp() {
    let tokenizer = tokenizer(SMOLLM2);
    check("smollm2", &tokenizer);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()[0]), (Some(1), 2));
    assert_eq!(tokenizer.vocab_size(), 49_152);
}

#[test]
fn qwen2_gives_the_ids_of_llama_cpp() {
    let tokenizer = tokenizer(QWEN);
    check("qwen2", &tokenizer);
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert!(tokenizer.eos_ids().starts_with(&[end]) && tokenizer.is_special(end));
    assert!(!tokenizer.is_special(tokenizer.token_id("<tool_call>").unwrap()));
    assert_eq!(tokenizer.vocab_size(), 151_936);
}
