//! Byte-level BPE: a word is a row of bytes, and neighbours merge by rank until none can.

use std::collections::HashMap;

use super::TokenizerError;
use super::byte_alphabet;
use super::merges::Merges;
use super::special::{Part, SpecialTokens};
use super::table::TokenTable;
use super::vocabulary::GgufVocabulary;
use super::words::Words;

/// A byte-level BPE encoder over a [`TokenTable`].
pub(super) struct BytePairs {
    /// The symbol of each single byte.
    bytes: [u32; 256],
    merges: Merges,
    words: Words,
    special: SpecialTokens,
    /// Symbols below this are tokens; from here on they only occur between merges.
    tokens: u32,
    /// What the symbols from `tokens` on end as, when nothing took them up.
    leftovers: Vec<Vec<u32>>,
}

impl BytePairs {
    /// Errors: a model other than `gpt2`, an unknown pre-tokenizer, a malformed merge.
    pub(super) fn new(
        vocabulary: &GgufVocabulary<'_>,
        table: &TokenTable,
    ) -> Result<Self, TokenizerError> {
        if vocabulary.model != "gpt2" {
            return Err(TokenizerError::UnknownModel {
                model: vocabulary.model.to_owned(),
                known: "gpt2",
            });
        }
        let words = Words::named(vocabulary.pre.unwrap_or("default"))?;
        let mut symbols = Symbols { table, unlisted: HashMap::new(), leftovers: Vec::new() };
        let mut written = [0; 4];
        let bytes = std::array::from_fn(|byte| {
            let character = byte_alphabet::character(byte as u8);
            symbols.number(character.encode_utf8(&mut written).as_bytes())
        });
        let mut merges = Merges::with_capacity(vocabulary.merges.len());
        let mut joined = Vec::new();
        let mut last = 0;
        for (index, &merge) in vocabulary.merges.iter().enumerate() {
            let (left, right) = parts(merge)
                .ok_or_else(|| TokenizerError::Merge { index, merge: merge.to_owned() })?;
            // Vocabularies mostly number what merges make in the order of the merges.
            last = if table.is_written(last + 1, left, right) {
                last + 1
            } else {
                joined.clear();
                joined.extend_from_slice(left);
                joined.extend_from_slice(right);
                symbols.number(&joined)
            };
            merges.insert(symbols.number(left), symbols.number(right), index as u32, last);
        }
        Ok(Self {
            bytes,
            merges,
            words,
            special: SpecialTokens::new(table),
            tokens: table.len() as u32,
            leftovers: symbols.leftovers,
        })
    }

    /// Whether a sequence begins with the begin token where the file does not say.
    pub(super) fn adds_bos(&self) -> bool {
        self.words.adds_bos
    }

    pub(super) fn encode(&self, text: &str, parse_special: bool, table: &TokenTable) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 1);
        let mut symbols = Vec::new();
        for part in self.special.split(text, parse_special, table) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.words.for_each(text, &mut |word| {
                    self.encode_word(word, table, &mut symbols, &mut ids);
                }),
            }
        }
        ids
    }

    /// Appends the ids of `word`; `symbols` is room to work in.
    fn encode_word(
        &self,
        word: &str,
        table: &TokenTable,
        symbols: &mut Vec<u32>,
        ids: &mut Vec<u32>,
    ) {
        if self.words.whole_words {
            let written: String = word.bytes().map(byte_alphabet::character).collect();
            if let Some(id) = table.id(written.as_bytes()) {
                return ids.push(id);
            }
        }
        symbols.clear();
        symbols.extend(word.bytes().map(|byte| self.bytes[usize::from(byte)]));
        self.merges.apply(symbols);
        for &symbol in &*symbols {
            if symbol < self.tokens {
                ids.push(symbol);
            } else {
                ids.extend_from_slice(&self.leftovers[(symbol - self.tokens) as usize]);
            }
        }
    }
}

/// The two parts of a merge; the first may itself begin with a space.
fn parts(merge: &str) -> Option<(&[u8], &[u8])> {
    let bytes = merge.as_bytes();
    let space = 1 + bytes.get(1..)?.iter().position(|&byte| byte == b' ')?;
    Some((&bytes[..space], &bytes[space + 1..]))
}

/// Numbers for the texts that merges speak of: a token's id, or for texts that are no token the
/// numbers after the last id.
struct Symbols<'a> {
    table: &'a TokenTable,
    unlisted: HashMap<Vec<u8>, u32>,
    leftovers: Vec<Vec<u32>>,
}

impl Symbols<'_> {
    fn number(&mut self, text: &[u8]) -> u32 {
        if let Some(id) = self.table.id(text) {
            return id;
        }
        let number = (self.table.len() + self.leftovers.len()) as u32;
        let leftovers = &mut self.leftovers;
        *self.unlisted.entry(text.to_owned()).or_insert_with(|| {
            // Left over, it falls apart into those of its characters that are one byte and a token.
            leftovers.push(text.chunks(1).filter_map(|byte| self.table.id(byte)).collect());
            number
        })
    }
}
