//! Text to token ids and back, as the checkpoint itself defines it.
//!
//! Two sources: the vocabulary inside a GGUF file (byte-level BPE, our own: see [`byte_pairs`])
//! and the `tokenizer.json` beside safetensors (by the `tokenizers` crate: see [`json`]). Both end
//! in the same table of tokens: for each id the bytes it stands for and its kind.
//!
//! ```text
//! text -> special tokens cut out -> words (pre-tokenizer) -> bytes merged by rank -> ids
//! ```

mod byte_alphabet;
mod byte_pairs;
mod end_of_generation;
mod error;
mod gguf;
mod json;
mod merges;
mod special;
mod table;
mod vocabulary;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use byte_alphabet::character as byte_character;
pub use error::TokenizerError;
pub use vocabulary::{GgufVocabulary, TokenKind};

use crate::model::{ModelFiles, TokenizerSource};
use byte_pairs::BytePairs;
use json::JsonEncoder;
use table::TokenTable;

/// How to read a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Put the tokens around it that the checkpoint asks for (begin of sequence, …). Chat
    /// templates write those themselves.
    pub add_special: bool,
    /// Read the text of a control token (`<|im_end|>`) as that token, not as characters.
    pub parse_special: bool,
}

/// A checkpoint's tokens.
pub struct Tokenizer {
    table: TokenTable,
    encoder: Encoder,
    bos: Option<u32>,
    /// The end-of-generation ids, the checkpoint's own first.
    eos: Vec<u32>,
    frame: Frame,
}

/// The special tokens that the checkpoint puts around a text.
#[derive(Debug, Default)]
struct Frame {
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Frame {
    fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

enum Encoder {
    BytePairs(Box<BytePairs>),
    Json(Box<JsonEncoder>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { table, bos, eos, .. } = self;
        let tokens = table.len();
        f.debug_struct("Tokenizer")
            .field("tokens", &tokens)
            .field("bos", bos)
            .field("eos", eos)
            .finish()
    }
}

impl Tokenizer {
    /// The tokenizer of an opened checkpoint, wherever it has it. Errors: as [`Self::from_gguf`]
    /// and [`Self::from_json`].
    pub fn of_model(model: &ModelFiles) -> Result<Self, TokenizerError> {
        let mut tokenizer = match model.tokenizer() {
            TokenizerSource::Gguf(file) => Self::from_gguf(&file)?,
            TokenizerSource::Json { tokenizer, config } => Self::from_json(tokenizer, config)?,
        };
        for &id in &model.generation().eos_ids {
            if (id as usize) < tokenizer.vocab_size() && !tokenizer.eos.contains(&id) {
                tokenizer.eos.push(id);
            }
        }
        Ok(tokenizer)
    }

    /// The tokenizer of a GGUF file's `tokenizer.ggml.*` entries.
    ///
    /// Errors: a model or pre-tokenizer that is not known (named, with the known ones), tables
    /// whose lengths disagree, a special id outside the vocabulary.
    pub fn from_vocabulary(vocabulary: &GgufVocabulary<'_>) -> Result<Self, TokenizerError> {
        let mut table = TokenTable::from_vocabulary(vocabulary)?;
        let eos = end_of_generation::of_vocabulary(vocabulary, &mut table);
        let encoder = BytePairs::new(vocabulary, &table)?;
        let added = |add: bool, id: Option<u32>| id.filter(|_| add).into_iter().collect();
        let frame = Frame {
            before: added(vocabulary.add_bos.unwrap_or(encoder.adds_bos()), vocabulary.bos),
            after: added(vocabulary.add_eos.unwrap_or(false), vocabulary.eos),
        };
        Ok(Self {
            bos: vocabulary.bos,
            eos,
            frame,
            encoder: Encoder::BytePairs(Box::new(encoder)),
            table,
        })
    }

    /// The tokenizer of a safetensors checkpoint: the bytes of its `tokenizer.json`, and what its
    /// `tokenizer_config.json` holds (the begin and end tokens, and whether they are added).
    ///
    /// Errors: a file that is no tokenizer, or one of a kind that is not supported (named).
    pub fn from_json(
        tokenizer: &[u8],
        config: Option<&serde_json::Value>,
    ) -> Result<Self, TokenizerError> {
        let json::Read { encoder, table, bos, eos, frame } = JsonEncoder::read(tokenizer, config)?;
        Ok(Self { table, encoder: Encoder::Json(Box::new(encoder)), bos, eos, frame })
    }

    /// The ids of `text`. Never fails: text that has no token is left out, as the checkpoint says.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let ids = match &self.encoder {
            Encoder::Json(json) => json.encode(text, options.parse_special),
            Encoder::BytePairs(pairs) => pairs.encode(text, options.parse_special, &self.table),
        };
        if !options.add_special || self.frame.is_empty() {
            return ids;
        }
        [&self.frame.before, &ids, &self.frame.after].map(Vec::as_slice).concat()
    }

    /// The text of `ids`, invalid UTF-8 replaced. `skip_special` leaves control tokens out; ids
    /// outside the vocabulary stand for nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let shown = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = shown.flat_map(|&id| self.token_bytes(id)).copied().collect();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if let Encoder::Json(json) = &self.encoder {
            json.trim_start(&mut text);
        }
        text
    }

    /// The bytes that `id` stands for in a text; for a special token its own text. Empty for an id
    /// outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.table.bytes(id)
    }

    /// The text by which the OpenAI API shows a token: its bytes, invalid UTF-8 replaced. The
    /// exact bytes go in the `bytes` field beside it ([`Self::token_bytes`]).
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }

    /// Whether `id` steers the model and is no text: begin, end, turn and padding tokens.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.table.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The number of ids: all are below it.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// The token that begins a sequence, if the checkpoint names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Every token that ends a generation; the checkpoint's end-of-sequence token first.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The id of the token that is written `text` in the vocabulary (`<|im_end|>`, `Ġthe`).
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.table.id(text.as_bytes())
    }
}

impl crate::engine::Vocabulary for Tokenizer {
    fn token_bytes(&self, id: u32) -> &[u8] {
        self.token_bytes(id)
    }

    fn is_special(&self, id: u32) -> bool {
        self.is_special(id)
    }

    fn eos_ids(&self) -> &[u32] {
        self.eos_ids()
    }
}
