//! The simulated model's own text: every byte is a token, and so is each of some words, by which
//! answers look like text. A word is read back as the token that wrote it, so that the next turn
//! of a conversation finds its prefix cached.

use serde_json::{Map, Value};

use crate::template::ChatTemplate;
use crate::tokenizer::{GgufVocabulary, TokenKind, Tokenizer, byte_character};

/// Steer the conversation; the lowest ids. `<|end|>` ends an answer.
const CONTROL: [&str; 6] =
    ["<|end|>", "<|system|>", "<|developer|>", "<|user|>", "<|assistant|>", "<|tool|>"];
/// The id of `<|end|>`.
pub(super) const END: u32 = 0;
const BYTES: usize = 256;
/// The ids from here on are words.
pub(super) const FIRST_WORD: u32 = (CONTROL.len() + BYTES) as u32;

/// What answers are made of; each is written with a space before it.
const WORDS: &str = "\
    the of and to in is that it was for on are as with at be this have from or had by but what \
    some we can out other were all there when up use how said an each she which do their time if \
    will way about many then them would like so these her long make thing see him two has look \
    more day could go come did my sound no most number who over know water than call first people \
    may down side been now find any new work part take get place made live where after back little \
    only round man year came show every good me give our under name very through just form much \
    great think say help low line before turn cause same mean differ move right boy old too does \
    tell sentence set three want air well also play small end put home read hand port large spell \
    add even land here must big high such follow act why ask men change went light kind off need \
    house picture try us again animal point mother world near build self earth father ferry river \
    bank boat crossing harbour landing tide current wind sail rope anchor bridge shore island";

/// Each turn between its role and `<|end|>`; tools as JSON in a turn of the system.
const TEMPLATE: &str = "\
{%- if tools %}{{ '<|system|>' ~ (tools | tojson) ~ '<|end|>' }}{% endif -%}
{%- for message in messages -%}
    {%- if message.role not in ['system', 'developer', 'user', 'assistant', 'tool'] -%}
        {{ raise_exception('unknown role ' ~ message.role) }}
    {%- endif -%}
    {{- '<|' ~ message.role ~ '|>' ~ (message.content or '') ~ '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif -%}";

pub(super) fn is_control(id: u32) -> bool {
    (id as usize) < CONTROL.len()
}

/// The number of tokens.
pub(super) fn vocabulary_len() -> usize {
    CONTROL.len() + BYTES + WORDS.split(' ').count()
}

impl Tokenizer {
    /// The tokenizer of [`SimModel`](crate::SimModel).
    pub fn of_sim() -> Self {
        let bytes = (0..=u8::MAX).map(|byte| byte_character(byte).to_string());
        let space = byte_character(b' ');
        let words = WORDS.split(' ').map(|word| format!("{space}{word}"));
        let tokens: Vec<String> =
            CONTROL.iter().map(|&text| text.to_owned()).chain(bytes).chain(words).collect();
        let kind = |id: usize| match is_control(id as u32) {
            true => TokenKind::Control,
            false => TokenKind::Normal,
        };
        let vocabulary = GgufVocabulary {
            model: "gpt2",
            // Takes a word that is a token as that token, before anything is merged.
            pre: Some("llama-bpe"),
            kinds: (0..tokens.len()).map(kind).collect(),
            tokens: tokens.iter().map(String::as_str).collect(),
            eos: Some(END),
            add_bos: Some(false),
            ..GgufVocabulary::default()
        };
        Self::from_vocabulary(&vocabulary).expect("a test reads the built-in vocabulary")
    }
}

impl ChatTemplate {
    /// The chat template of [`SimModel`](crate::SimModel).
    pub fn of_sim() -> Self {
        Self::parse(TEMPLATE, Map::<String, Value>::new())
            .expect("a test reads the built-in template")
    }
}
