use proptest::prelude::*;
use serde_json::{Value, json};

use super::{EncodeOptions, GgufVocabulary, TokenKind, Tokenizer, TokenizerError, byte_alphabet};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const SPECIAL: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const WHOLE: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

/// All bytes, some merges, and special tokens after them: what a small GGUF file holds.
fn small() -> (Vec<String>, Vec<TokenKind>, Vec<&'static str>) {
    let mut tokens: Vec<String> =
        (0..=u8::MAX).map(|byte| byte_alphabet::character(byte).to_string()).collect();
    let merges = vec!["a b", "Ġ ab", "l l", "h e", "he ll", "o Ġ", "Ġ Ġ"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    for (text, kind) in [
        ("<|end|>", TokenKind::Control),
        ("<|end|>>", TokenKind::Control),
        ("<tool>", TokenKind::UserDefined),
        ("ol><|", TokenKind::UserDefined),
        ("[unused]", TokenKind::Unused),
    ] {
        tokens.push(text.to_owned());
        kinds.push(kind);
    }
    (tokens, kinds, merges)
}

fn small_vocabulary<'a>(
    (tokens, kinds, merges): &'a (Vec<String>, Vec<TokenKind>, Vec<&'static str>),
) -> GgufVocabulary<'a> {
    GgufVocabulary {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: tokens.iter().map(String::as_str).collect(),
        kinds: kinds.clone(),
        merges: merges.clone(),
        bos: Some(263),
        eos: Some(263),
        ..GgufVocabulary::default()
    }
}

/// The texts of the tokens of `text`.
fn pieces(tokenizer: &Tokenizer, text: &str, options: EncodeOptions) -> Vec<String> {
    tokenizer.encode(text, options).iter().map(|&id| tokenizer.token_text(id)).collect()
}

#[test]
fn text_is_merged_by_rank_within_words() {
    let tables = small();
    let tokenizer = Tokenizer::from_vocabulary(&small_vocabulary(&tables)).unwrap();
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(pieces(&tokenizer, text, PLAIN), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, PLAIN), false), text);
    };
    check("", &[]);
    check("ab ab", &["ab", " ab"]);
    check("hello", &["hell", "o"]);
    check("o ab", &["o", " ab"]);
    check("   x", &["  ", " ", "x"]);
    check("é\0", &["\u{fffd}", "\u{fffd}", "\0"]);
    assert_eq!(tokenizer.vocab_size(), 268);
    assert_eq!(tokenizer.token_id("Ġab"), Some(257));
    assert_eq!(tokenizer.token_bytes(257), b" ab");
    assert_eq!((tokenizer.token_bytes(999), tokenizer.is_special(999)), (&[][..], false));
}

#[test]
fn special_tokens_are_cut_out_first() {
    let tables = small();
    let tokenizer = Tokenizer::from_vocabulary(&small_vocabulary(&tables)).unwrap();
    let check = |text: &str, options: EncodeOptions, expected: &[&str]| {
        assert_eq!(pieces(&tokenizer, text, options), expected, "{text:?} {options:?}");
    };
    check("ab<|end|>ab", SPECIAL, &["ab", "<|end|>", "ab"]);
    check("<|end|>", PLAIN, &["<", "|", "e", "n", "d", "|", ">"]);
    check("a<tool>", PLAIN, &["a", "<tool>"]);
    check("<|end|>>", SPECIAL, &["<|end|>>"]);
    check("<tool><|x", SPECIAL, &["<tool>", "<", "|", "x"]);
    check("<ool><|x", SPECIAL, &["<", "o", "ol><|", "x"]);
    check("<|end|><|end|>", SPECIAL, &["<|end|>", "<|end|>"]);
    check("[unused]", SPECIAL, &["[", "u", "n", "u", "s", "e", "d", "]"]);
    let ids = tokenizer.encode("ab<|end|><tool>", SPECIAL);
    assert_eq!(tokenizer.decode(&ids, true), "ab<tool>");
    assert_eq!(tokenizer.eos_ids(), [263]);
    assert_eq!(
        ids.iter().map(|&id| tokenizer.is_special(id)).collect::<Vec<_>>(),
        [false, true, false]
    );
}

#[test]
fn sequences_begin_and_end_as_the_file_says() {
    let tables = small();
    let count = |change: &dyn Fn(&mut GgufVocabulary<'_>)| {
        let mut vocabulary = small_vocabulary(&tables);
        change(&mut vocabulary);
        let ids = Tokenizer::from_vocabulary(&vocabulary).unwrap().encode("x", WHOLE);
        ids.iter().map(|&id| if id == 263 { 's' } else { 'x' }).collect::<String>()
    };
    assert_eq!(count(&|_| {}), "x");
    assert_eq!(count(&|vocabulary| vocabulary.pre = Some("llama-bpe")), "sx");
    assert_eq!(count(&|vocabulary| vocabulary.add_bos = Some(true)), "sx");
    assert_eq!(count(&|vocabulary| vocabulary.add_eos = Some(true)), "xs");
    let without = |vocabulary: &mut GgufVocabulary<'_>| {
        (vocabulary.bos, vocabulary.add_bos) = (None, Some(true));
    };
    assert_eq!(count(&without), "x");
}

#[test]
fn whole_words_go_before_merges_in_llama_3() {
    let (mut tokens, mut kinds, merges) = small();
    tokens.push("oab".to_owned());
    kinds.push(TokenKind::Normal);
    let tables = (tokens, kinds, merges);
    let tokenize = |pre| {
        let vocabulary = GgufVocabulary { pre: Some(pre), ..small_vocabulary(&tables) };
        pieces(&Tokenizer::from_vocabulary(&vocabulary).unwrap(), "oab", PLAIN)
    };
    assert_eq!(tokenize("gpt-2"), ["o", "ab"]);
    assert_eq!(tokenize("llama-bpe"), ["oab"]);
}

#[test]
fn a_merge_may_pass_through_what_is_no_token() {
    let vocabulary = GgufVocabulary {
        model: "gpt2",
        tokens: vec!["a", "b", "c", "abc", "x"],
        merges: vec!["a b", "ab c", "a x", "missing x"],
        ..GgufVocabulary::default()
    };
    let tokenizer = Tokenizer::from_vocabulary(&vocabulary).unwrap();
    assert_eq!(pieces(&tokenizer, "abc", PLAIN), ["abc"]);
    assert_eq!(pieces(&tokenizer, "abx", PLAIN), ["a", "b", "x"], "a left-over falls apart");
    assert_eq!(
        pieces(&tokenizer, "azb", PLAIN),
        ["a", "b"],
        "bytes that have no token are left out"
    );
}

#[test]
fn a_vocabulary_that_is_not_sound_is_refused() {
    let tables = small();
    let check = |change: &dyn Fn(&mut GgufVocabulary<'_>), said: &str| {
        let mut vocabulary = small_vocabulary(&tables);
        change(&mut vocabulary);
        let error = Tokenizer::from_vocabulary(&vocabulary).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    };
    check(&|v| v.model = "llama", "tokenizer model `llama` is not supported (supported: gpt2)");
    check(&|v| v.pre = Some("x"), "pre-tokenizer `x` is not supported");
    check(&|v| v.kinds.truncate(267), "268 tokens but 267 token types");
    check(&|v| (v.tokens, v.kinds) = (vec![], vec![]), "`tokenizer.ggml.bos_token_id` is 263, but");
    check(&|v| *v = GgufVocabulary::default(), "a vocabulary of 0 tokens (0 bytes) cannot be used");
    check(
        &|v| v.eos = Some(268),
        "`tokenizer.ggml.eos_token_id` is 268, but the vocabulary has 268",
    );
    check(&|v| v.merges.push("ab"), "merge 7 `ab` is not two tokens separated by a space");
    check(&|v| v.merges.push(""), "merge 7 `` is not two");
}

/// A `tokenizer.json` of byte-level BPE as Qwen's and Llama 3's are.
fn byte_level_json() -> Value {
    let (tokens, _, merges) = small();
    let vocabulary: serde_json::Map<String, Value> =
        tokens[..263].iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "truncation":
            {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [added(263, "<|end|>", true), added(264, "<tool>", false)],
        "normalizer": null,
        "pre_tokenizer":
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|end|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [263], "tokens": ["<|end|>"]}}},
        "decoder":
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "byte_fallback": false,
            "vocab": vocabulary, "merges": merges},
    })
}

/// A `tokenizer.json` as converted from SentencePiece: `▁` for spaces, bytes as `<0x0A>`.
fn sentence_piece_json() -> Value {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "h", "i", "▁h", "▁hi", "한"].map(str::to_owned));
    let vocabulary: serde_json::Map<String, Value> =
        tokens.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let added = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    let spaces = added(tokens.len(), "▁▁▁", false);
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens":
            [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true), spaces],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "byte_fallback": true,
            "vocab": vocabulary, "merges": ["▁ h", "▁h i"]},
    })
}

fn read(json: &Value, config: Option<&Value>) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_json(json.to_string().as_bytes(), config)
}

#[test]
fn a_byte_level_tokenizer_json() {
    let config = json!({"bos_token": null, "eos_token": {"content": "<|end|>"}});
    let tokenizer = read(&byte_level_json(), Some(&config)).unwrap();
    let check = |text: &str, options, expected: &[&str]| {
        assert_eq!(pieces(&tokenizer, text, options), expected, "{text:?}");
    };
    check("hello ab<|end|><tool>", SPECIAL, &["hell", "o", " ab", "<|end|>", "<tool>"]);
    check("<|end|><tool>", PLAIN, &["<", "|", "e", "n", "d", "|", ">", "<tool>"]);
    check("ab ab ab", WHOLE, &["<|end|>", "ab", " ab", " ab"]);
    assert_eq!(tokenizer.token_bytes(257), b" ab");
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_bytes(265)), (265, &b""[..]));
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (None, &[263][..]));
    assert_eq!((tokenizer.is_special(263), tokenizer.is_special(264)), (true, false));
    let ids = tokenizer.encode("é 한<|end|>", SPECIAL);
    assert_eq!(
        (tokenizer.decode(&ids, true), tokenizer.decode(&ids, false)),
        ("é 한".into(), "é 한<|end|>".into())
    );
}

#[test]
fn a_sentence_piece_tokenizer_json() {
    let config = json!({
        "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true, "add_eos_token": false,
    });
    let tokenizer = read(&sentence_piece_json(), Some(&config)).unwrap();
    assert_eq!(pieces(&tokenizer, "hi 한", PLAIN), [" hi", " ", "한"]);
    assert_eq!(pieces(&tokenizer, "hi", WHOLE), ["<s>", " hi"]);
    let ids = tokenizer.encode("hi\n국", PLAIN);
    assert_eq!(ids.len(), 5, "a character that is no token becomes its bytes");
    assert_eq!(tokenizer.token_bytes(ids[1]), b"\n");
    assert_eq!(tokenizer.decode(&ids, false), "hi\n국", "the first space is not shown");
    let spaces = tokenizer.token_id("▁▁▁").unwrap();
    assert_eq!(tokenizer.token_text(spaces), "   ", "an added token of spaces, as Gemma has them");
    assert_eq!(tokenizer.eos_ids(), [2]);
}

#[test]
fn a_tokenizer_json_that_is_not_sound_is_refused() {
    let check = |change: &dyn Fn(&mut Value), said: &str| {
        let mut json = sentence_piece_json();
        change(&mut json);
        let error = read(&json, None).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    };
    let ctc = json!({
        "type": "CTC", "pad_token": "p", "word_delimiter_token": "w", "cleanup": true,
    });
    check(&|json| *json = json!([]), "reading tokenizer.json");
    check(&|json| json["model"]["merges"] = json!(["q q"]), "reading tokenizer.json");
    check(
        &|json| json["model"] = json!({"type": "WordLevel", "vocab": {}, "unk_token": "?"}),
        "`WordLevel`",
    );
    check(&|json| json["decoder"] = ctc.clone(), "decoder type `CTC`");
    let template = json!({"type": "TemplateProcessing", "pair": [],
        "special_tokens": {"x": {"ids": [900]}},
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}]});
    check(&|json| json["post_processor"] = template.clone(), "reading tokenizer.json");
    check(&|json| json["model"]["dropout"] = json!(0.5), "dropout");
    check(&|json| json["model"]["vocab"]["x"] = json!(4_000_000_000_u32), "cannot be used");
    let whole = byte_level_json().to_string().into_bytes();
    for end in (0..whole.len()).step_by(97) {
        assert!(Tokenizer::from_json(&whole[..end], None).is_err(), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn decoding_gives_back_the_text(text in "(\\PC|[ab hello<|end>too\\n]){0,60}") {
        let tables = small();
        let tokenizer = Tokenizer::from_vocabulary(&small_vocabulary(&tables)).unwrap();
        for options in [PLAIN, SPECIAL] {
            let ids = tokenizer.encode(&text, options);
            prop_assert_eq!(tokenizer.decode(&ids, false), text.as_str());
        }
    }

    #[test]
    fn both_kinds_of_file_give_the_same_ids(text in "(\\PC|[ab hello<|end>too\\n]){0,60}") {
        let mut tables = small();
        tables.0.truncate(264);
        tables.1.truncate(264);
        let gguf = Tokenizer::from_vocabulary(&small_vocabulary(&tables)).unwrap();
        let json = read(&byte_level_json(), None).unwrap();
        for options in [PLAIN, SPECIAL] {
            if !text.contains("<tool>") {
                prop_assert_eq!(gguf.encode(&text, options), json.encode(&text, options));
            }
        }
    }

    #[test]
    fn a_changed_tokenizer_json_never_panics(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        text in "\\PC{0,12}",
    ) {
        for json in [byte_level_json(), sentence_piece_json()] {
            let mut bytes = json.to_string().into_bytes();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Ok(tokenizer) = Tokenizer::from_json(&bytes, None) {
                let ids = tokenizer.encode(&text, WHOLE);
                let _ = tokenizer.decode(&ids, true);
            }
        }
    }
}
