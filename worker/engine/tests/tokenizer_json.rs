//! Genuine `tokenizer.json` files, as Hugging Face checkpoints have them: Qwen 2.5's gives the ids
//! that its GGUF vocabulary gives, and all give what the reference implementation gives, also where
//! it is naru that works (tokens' bytes, decoding, what stands around a text).

#![allow(clippy::unwrap_used, clippy::panic)]

mod checkpoints;

use checkpoints::{QWEN, QWEN_TOKENIZER, lines};
use naru_engine::{Detokenizer, EncodeOptions, Tokenizer};
use serde_json::Value;
use tokenizers::normalizers::NFC;
use tokenizers::{NormalizedString, Normalizer};

const AWKWARD: &str = include_str!("tokenizer/ids.json");
const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const SPECIAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// Texts of every awkward kind, a name before each.
fn awkward() -> Vec<(String, String)> {
    let fixture: Value = serde_json::from_str(AWKWARD).unwrap();
    let texts: Vec<String> = serde_json::from_value(fixture["texts"].clone()).unwrap();
    texts.into_iter().enumerate().map(|(i, text)| (format!("text {i}"), text)).collect()
}

fn composed(text: &str) -> String {
    let mut text = NormalizedString::from(text);
    NFC.normalize(&mut text).unwrap();
    text.get().to_owned()
}

/// The text of `ids` as a stream shows it, token by token.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new();
    let pushed = |&id: &u32| detokenizer.push(tokenizer.token_bytes(id));
    let text: String = ids.iter().map(pushed).collect();
    text + &detokenizer.finish()
}

#[test]
fn qwen2_gives_the_ids_of_its_gguf_vocabulary() {
    let (_directory, files) = checkpoints::around_tokenizer(QWEN_TOKENIZER);
    let json = Tokenizer::of_model(&files).unwrap();
    let gguf = Tokenizer::of_model(&checkpoints::open(QWEN)).unwrap();
    let mut decomposed = 0;
    for (place, text) in lines().into_iter().chain(awkward()) {
        // This file has its text composed before it is cut, which a GGUF vocabulary cannot say.
        let read = composed(&text);
        decomposed += usize::from(read != text);
        for options in [PLAIN, SPECIAL] {
            // Tokens of fill-in-the-middle are text to this file, which always reads them as
            // tokens; the GGUF file calls them control tokens, read where that is asked for.
            if options == PLAIN && read.contains("<|fim_") {
                continue;
            }
            let ids = json.encode(&text, options);
            assert_eq!(ids, gguf.encode(&read, options), "{place}: {text:?} {options:?}");
            assert_eq!(json.decode(&ids, false), read, "{place}");
            assert_eq!(streamed(&json, &ids), read, "{place}");
        }
    }
    assert!(decomposed > 0, "no text shows that this file composes");
    assert_eq!(json.vocab_size(), 151_665);
    for id in 0..151_665 {
        assert_eq!(json.token_bytes(id), gguf.token_bytes(id), "token {id}");
    }
    assert_eq!(json.eos_ids()[0], gguf.eos_ids()[0]);
    assert_eq!(json.token_text(json.eos_ids()[0]), "<|im_end|>");
}

/// What the reference implementation gives for every text, naru gives too.
fn agrees_with_the_reference(name: &str) {
    let (_directory, files) = checkpoints::around_tokenizer(name);
    let ours = Tokenizer::of_model(&files).unwrap();
    let file = checkpoints::path(name).join("tokenizer.json");
    let theirs = tokenizers::Tokenizer::from_file(file).unwrap();
    for (place, text) in lines().into_iter().chain(awkward()) {
        let whole = EncodeOptions { add_special: true, parse_special: true };
        let ids = ours.encode(&text, whole);
        let encoding = theirs.encode(text.as_str(), true).unwrap();
        assert_eq!(ids, encoding.get_ids(), "{name}, {place}: {text:?}");
        for skip in [false, true] {
            let decoded = theirs.decode(&ids, skip).unwrap();
            assert_eq!(ours.decode(&ids, skip), decoded, "{name}, {place}: {text:?}");
        }
        assert_eq!(streamed(&ours, &ids), ours.decode(&ids, false), "{name}, {place}");
    }
}

#[test]
fn deepseek_agrees_with_the_reference() {
    agrees_with_the_reference("DeepSeek-V4.tokenizer");
}

#[test]
fn claude_agrees_with_the_reference() {
    agrees_with_the_reference("Claude.tokenizer");
}
