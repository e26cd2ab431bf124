//! The tokenizers of both real checkpoints give the ids that llama.cpp gives, for texts of every
//! awkward kind (`make_ids.py` beside the fixture asked it), and their tokens stream back as text.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use naru_engine::{Detokenizer, EncodeOptions, ModelFiles, Tokenizer};
use serde_json::Value;

const FIXTURE: &str = include_str!("tokenizer/ids.json");

/// The tokenizer of the real checkpoint `file`, from the cache that `make models` fills.
fn tokenizer(file: &str) -> Tokenizer {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("NARU_CACHE_DIR")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("naru")))
        .or_else(|| Some(variable("HOME")?.join(".cache/naru")))
        .expect("one of NARU_CACHE_DIR, XDG_CACHE_HOME and HOME is set");
    let path = cache.join("models").join(file);
    assert!(path.exists(), "{} is missing: run `make models`", path.display());
    Tokenizer::of_model(&ModelFiles::open(&path).expect("the checkpoint opens")).unwrap()
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
    let tokenizer = tokenizer("SmolLM2-135M-Instruct.Q4_1.gguf");
    check("smollm2", &tokenizer);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()[0]), (Some(1), 2));
    assert_eq!(tokenizer.vocab_size(), 49_152);
}

#[test]
fn qwen2_gives_the_ids_of_llama_cpp() {
    let tokenizer = tokenizer("Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf");
    check("qwen2", &tokenizer);
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert!(tokenizer.eos_ids().starts_with(&[end]) && tokenizer.is_special(end));
    assert!(!tokenizer.is_special(tokenizer.token_id("<tool_call>").unwrap()));
    assert_eq!(tokenizer.vocab_size(), 151_936);
}
