//! Cutting text into words before bytes are merged: merges never cross a word's end. Each
//! pre-tokenizer is published as regular expressions with look-ahead; here each is a function from
//! where a word starts to where it ends, in one pass and with no backtracking. Tests hold them
//! equal to the expressions.

use unicode_general_category::{GeneralCategory, get_general_category};

use super::TokenizerError;

/// What a character is to the expressions. The classes of one character never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    /// `\p{P}`
    Punctuation,
    Other,
}

impl Class {
    fn of(character: char) -> Self {
        use GeneralCategory as G;
        if character.is_whitespace() {
            return Self::Space;
        }
        match get_general_category(character) {
            G::UppercaseLetter
            | G::LowercaseLetter
            | G::TitlecaseLetter
            | G::ModifierLetter
            | G::OtherLetter => Self::Letter,
            G::DecimalNumber | G::LetterNumber | G::OtherNumber => Self::Number,
            G::ConnectorPunctuation
            | G::DashPunctuation
            | G::OpenPunctuation
            | G::ClosePunctuation
            | G::InitialPunctuation
            | G::FinalPunctuation
            | G::OtherPunctuation => Self::Punctuation,
            _ => Self::Other,
        }
    }

    /// Neither space, letter nor number.
    fn is_symbol(self) -> bool {
        matches!(self, Self::Punctuation | Self::Other)
    }
}

/// One way to cut: each pass cuts the pieces of the pass before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// GPT-2's words: a contraction, or a run of letters, numbers or symbols, each with one space
    /// before it, or spaces.
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Llama 3's and Qwen 2's words: newlines end symbols and spaces, any one character may lead
    /// letters, numbers come in groups.
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|`
    /// ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Grouped { digits: usize },
    /// Each number alone: `\p{N}`
    EachNumber,
    /// Runs of numbers: `\p{N}+`
    Numbers,
    /// Runs of punctuation: `[\p{P}$+<=>^~|]+`
    Punctuation,
    /// Groups of three digits: `[0-9][0-9][0-9]`
    ThreeDigits,
}

/// A pre-tokenizer and what goes with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    passes: &'static [Pass],
    /// A word that is a token is that token, whatever the merges say.
    pub(super) whole_words: bool,
    /// Whether a sequence begins with the begin token where the file does not say.
    pub(super) adds_bos: bool,
}

/// The pre-tokenizers by the names that GGUF files give them.
const KNOWN: [(&[&str], Words); 5] = [
    (
        &["default"],
        Words {
            passes: &[Pass::Punctuation, Pass::Gpt2, Pass::Numbers, Pass::ThreeDigits],
            whole_words: false,
            adds_bos: false,
        },
    ),
    (
        &["gpt-2", "phi-2", "a.x-4.0"],
        Words { passes: &[Pass::Gpt2], whole_words: false, adds_bos: false },
    ),
    (
        &["smollm", "starcoder", "exaone"],
        Words { passes: &[Pass::EachNumber, Pass::Gpt2], whole_words: false, adds_bos: false },
    ),
    (
        &["qwen2", "deepseek-r1-qwen", "solar-open"],
        Words { passes: &[Pass::Grouped { digits: 1 }], whole_words: false, adds_bos: false },
    ),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "midm-2.0"],
        Words { passes: &[Pass::Grouped { digits: 3 }], whole_words: true, adds_bos: true },
    ),
];

impl Words {
    /// The pre-tokenizer called `name`. Error: not known, with those that are.
    pub(super) fn named(name: &str) -> Result<Self, TokenizerError> {
        let known = KNOWN.iter().find(|(names, _)| names.contains(&name));
        known.map(|&(_, words)| words).ok_or_else(|| TokenizerError::UnknownPreTokenizer {
            pre: name.to_owned(),
            known: KNOWN
                .iter()
                .flat_map(|&(names, _)| names)
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// Hands each word of `text` to `take`, in order. The words together are the text.
    pub(super) fn for_each<'t>(&self, text: &'t str, take: &mut dyn FnMut(&'t str)) {
        split(self.passes, text, take);
    }
}

fn split<'t>(passes: &[Pass], text: &'t str, take: &mut dyn FnMut(&'t str)) {
    let Some((pass, later)) = passes.split_first() else {
        return take(text);
    };
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(pass.word(rest));
        split(later, word, take);
        rest = after;
    }
}

impl Pass {
    /// Where the word that starts `text`, which is not empty, ends: a character's end after 0.
    fn word(self, text: &str) -> usize {
        match self {
            Self::Gpt2 => gpt2_word(text),
            Self::Grouped { digits } => grouped_word(text, digits),
            Self::EachNumber => match first(text) {
                Some((Class::Number, end)) => end,
                _ => run(text, 0, |class| class != Class::Number),
            },
            Self::Numbers => match first(text) {
                Some((Class::Number, _)) => run(text, 0, |class| class == Class::Number),
                _ => run(text, 0, |class| class != Class::Number),
            },
            Self::Punctuation => {
                let punctuation =
                    |c: char| "$+<=>^~|".contains(c) || Class::of(c) == Class::Punctuation;
                let inside = text.starts_with(punctuation);
                text.find(|c| punctuation(c) != inside).unwrap_or(text.len())
            }
            Self::ThreeDigits => {
                let three = |at: usize| {
                    let bytes = text.as_bytes().get(at..at + 3);
                    bytes.is_some_and(|bytes| bytes.iter().all(u8::is_ascii_digit))
                };
                if three(0) {
                    3
                } else {
                    (1..text.len()).find(|&at| three(at)).unwrap_or(text.len())
                }
            }
        }
    }
}

fn gpt2_word(text: &str) -> usize {
    if let Some(end) = contraction(text, false) {
        return end;
    }
    let start = usize::from(text.starts_with(' '));
    match class_at(text, start) {
        Some((class @ (Class::Letter | Class::Number), _)) => {
            run(text, start, |next| next == class)
        }
        Some((class, _)) if class.is_symbol() => run(text, start, Class::is_symbol),
        _ => spaces(text),
    }
}

fn grouped_word(text: &str, digits: usize) -> usize {
    if let Some(end) = contraction(text, true) {
        return end;
    }
    let Some((class, end)) = first(text) else { return text.len() };
    let letters = |class| class == Class::Letter;
    if class == Class::Letter {
        return run(text, 0, letters);
    }
    let newline = text.starts_with(['\r', '\n']);
    if class != Class::Number
        && !newline
        && class_at(text, end).is_some_and(|(next, _)| letters(next))
    {
        return run(text, end, letters);
    }
    if class == Class::Number {
        let mut ends = std::iter::successors(Some(end), |&end| match class_at(text, end) {
            Some((Class::Number, end)) => Some(end),
            _ => None,
        });
        return ends.by_ref().take(digits).last().unwrap_or(end);
    }
    let start = usize::from(text.starts_with(' '));
    if class_at(text, start).is_some_and(|(class, _)| class.is_symbol()) {
        let symbols = run(text, start, Class::is_symbol);
        let newlines = text[symbols..].bytes().take_while(|byte| matches!(byte, b'\r' | b'\n'));
        return symbols + newlines.count();
    }
    let all = run(text, 0, |class| class == Class::Space);
    match text[..all].rfind(['\r', '\n']) {
        Some(last) => last + 1,
        None => spaces(text),
    }
}

/// The end of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at the start of `text`.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let rest = text.as_bytes().strip_prefix(b"'")?;
    let starts = |with: &[u8]| match rest.get(..with.len()) {
        Some(start) if any_case => start.eq_ignore_ascii_case(with),
        start => start == Some(with),
    };
    let found = ["s", "t", "re", "ve", "m", "ll", "d"].iter().find(|with| starts(with.as_bytes()));
    found.map(|with| 1 + with.len())
}

/// Spaces at the start of `text`: all of them at its end, else all but the last, which belongs to
/// the next word, but at least one.
fn spaces(text: &str) -> usize {
    let all = run(text, 0, |class| class == Class::Space);
    let last = text[..all].chars().next_back().map_or(0, char::len_utf8);
    if all == text.len() || all == last { all } else { all - last }
}

/// Where the characters from `start` on stop being of the classes asked for.
fn run(text: &str, start: usize, of: impl Fn(Class) -> bool) -> usize {
    let mut at = start;
    while let Some((class, end)) = class_at(text, at) {
        if !of(class) {
            break;
        }
        at = end;
    }
    at
}

fn first(text: &str) -> Option<(Class, usize)> {
    class_at(text, 0)
}

/// The class of the character at byte `at` and where it ends.
fn class_at(text: &str, at: usize) -> Option<(Class, usize)> {
    let &byte = text.as_bytes().get(at)?;
    if byte.is_ascii() {
        return Some((ASCII[usize::from(byte)], at + 1));
    }
    let character = text[at..].chars().next()?;
    Some((Class::of(character), at + character.len_utf8()))
}

/// [`Class::of`] for ASCII.
const ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut code = 0_u8;
    while code < 128 {
        classes[code as usize] = match code {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\t'..=b'\r' | b' ' => Class::Space,
            b'$' | b'+' | b'<'..=b'>' | b'^' | b'`' | b'|' | b'~' => Class::Other,
            b'!'..=b'~' => Class::Punctuation,
            _ => Class::Other,
        };
        code += 1;
    }
    classes
};

#[cfg(test)]
mod tests;
