use fancy_regex::Regex;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::Words;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN2: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const LLAMA3: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The published expressions of each pre-tokenizer: each cuts the pieces of the one before into its
/// matches and what lies between.
fn published(name: &str) -> &'static [&'static str] {
    match name {
        "default" => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        "gpt-2" => &[GPT2],
        "smollm" => &[r"\p{N}", GPT2],
        "qwen2" => &[QWEN2],
        "llama-bpe" => &[LLAMA3],
        other => panic!("no expressions for {other}"),
    }
}

/// The expressions of one pre-tokenizer, compiled.
struct Published(Vec<Regex>);

impl Published {
    fn of(name: &str) -> Self {
        Self(published(name).iter().map(|expression| Regex::new(expression).unwrap()).collect())
    }

    fn words(&self, text: &str) -> Vec<String> {
        let mut pieces = vec![text.to_owned()];
        for expression in &self.0 {
            pieces = pieces.iter().flat_map(|piece| cut(expression, piece)).collect();
        }
        pieces
    }
}

fn cut(expression: &Regex, text: &str) -> Vec<String> {
    let (mut pieces, mut from) = (Vec::new(), 0);
    for found in expression.find_iter(text) {
        let found = found.unwrap();
        pieces.extend([&text[from..found.start()], found.as_str()].map(str::to_owned));
        from = found.end();
    }
    pieces.push(text[from..].to_owned());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
    let mut words = Vec::new();
    Words::named(name).unwrap().for_each(text, &mut |word| words.push(word));
    words
}

fn check(name: &str, text: &str, expected: &[&str]) {
    assert_eq!(words(name, text), expected, "{name}: {text:?}");
    assert_eq!(Published::of(name).words(text), expected, "the expressions of {name}: {text:?}");
}

#[test]
fn words_are_cut_as_published() {
    check("gpt-2", "", &[]);
    check("gpt-2", "I'll  go,", &["I", "'ll", " ", " go", ","]);
    check("gpt-2", "I'LL", &["I", "'", "LL"]);
    check("gpt-2", "a\n\n b12 3", &["a", "\n\n", " b", "12", " 3"]);
    check("gpt-2", "x  ", &["x", "  "]);
    check("smollm", "a 12  3", &["a", " ", "1", "2", "  ", "3"]);
    check("qwen2", "I'LL\tgo 12", &["I", "'LL", "\tgo", " ", "1", "2"]);
    check("qwen2", "a!\r\n\n  b", &["a", "!\r\n\n", " ", " b"]);
    check("qwen2", " \n \n  x", &[" \n \n", " ", " x"]);
    check("llama-bpe", "12345 \n", &["123", "45", " \n"]);
    check("llama-bpe", "한국어 اللغةً", &["한국어", " اللغة", "ً"]);
    check("default", "a$b, 12345", &["a", "$", "b", ",", " ", "123", "45"]);
}

#[test]
fn an_unknown_pre_tokenizer_is_named_with_the_known_ones() {
    let error = Words::named("gpt-9").unwrap_err().to_string();
    assert!(error.starts_with("pre-tokenizer `gpt-9` is not supported (supported: default, gpt-2"));
}

/// Text in which every alternative of the expressions is likely.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => proptest::sample::select(vec![
            " ", " ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{3000}", "\u{85}", "'s",
            "'T", "'re", "'LL", "'", "a", "Z", "é", "한", "ส", "ั",
            "ع", "\u{64b}", "1", "23", "٣", "½", "Ⅷ",
            "!", "...", "$", "+",
            "<|", "_", "€", "😀", "\u{200d}", "\u{0}", "ſ",
        ]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

#[test]
fn words_are_those_of_the_published_expressions() {
    for name in ["default", "gpt-2", "smollm", "qwen2", "llama-bpe"] {
        let published = Published::of(name);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(512));
        let result = runner.run(&text(), |text| {
            prop_assert_eq!(words(name, &text), published.words(&text));
            Ok(())
        });
        assert!(result.is_ok(), "{name}: {result:?}");
    }
}
