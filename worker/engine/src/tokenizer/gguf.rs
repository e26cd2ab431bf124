//! The vocabulary as a GGUF file's metadata has it.

use super::vocabulary::{GgufVocabulary, TokenKind};
use super::{Tokenizer, TokenizerError};
use crate::gguf::{GgufError, GgufFile, Metadata, Strings, Value};

impl Tokenizer {
    /// The tokenizer in the metadata of a GGUF file. Errors: an entry that is missing or of the
    /// wrong type (named); as [`Tokenizer::from_vocabulary`].
    pub fn from_gguf(file: &GgufFile<'_>) -> Result<Self, TokenizerError> {
        Self::from_vocabulary(&GgufVocabulary::read(file.metadata())?)
    }
}

impl<'a> GgufVocabulary<'a> {
    /// Borrows the entries from a file's metadata. Errors: one is missing, or of the wrong type.
    pub fn read(metadata: Metadata<'a>) -> Result<Self, TokenizerError> {
        const MODEL: &str = "tokenizer.ggml.model";
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const MERGES: &str = "tokenizer.ggml.merges";
        let wrong = |source: GgufError| TokenizerError::Metadata { source };
        let missing = |key| TokenizerError::Missing { key };
        let id = |key: &'static str| {
            let id = metadata.unsigned(key).map_err(wrong)?;
            Ok(id.map(|id| u32::try_from(id).unwrap_or(u32::MAX)))
        };
        let flag = |key| metadata.boolean(key).map_err(wrong);
        let model = metadata.text(MODEL).map_err(wrong)?.ok_or_else(|| missing(MODEL))?;
        let tokens = metadata.texts(TOKENS).map_err(wrong)?.ok_or_else(|| missing(TOKENS))?;
        let merges = metadata.texts(MERGES).map_err(wrong)?;
        Ok(Self {
            model,
            pre: metadata.text("tokenizer.ggml.pre").map_err(wrong)?,
            tokens: texts(TOKENS, tokens)?,
            kinds: kinds(metadata)?,
            merges: merges.map_or(Ok(Vec::new()), |merges| texts(MERGES, merges))?,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            eom: id("tokenizer.ggml.eom_token_id")?,
            add_bos: flag("tokenizer.ggml.add_bos_token")?,
            add_eos: flag("tokenizer.ggml.add_eos_token")?,
        })
    }
}

fn texts<'a>(key: &'static str, texts: Strings<'a>) -> Result<Vec<&'a str>, TokenizerError> {
    let text = |(index, bytes)| {
        std::str::from_utf8(bytes).map_err(|_| TokenizerError::NoText { key, index })
    };
    texts.iter().enumerate().map(text).collect()
}

fn kinds(metadata: Metadata<'_>) -> Result<Vec<TokenKind>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let kind = |value| match value {
        Value::Signed(code) => i32::try_from(code).ok().map(TokenKind::from_gguf),
        Value::Unsigned(code) => i32::try_from(code).ok().map(TokenKind::from_gguf),
        _ => None,
    };
    match metadata.value(KEY) {
        None => Ok(Vec::new()),
        Some(Value::Array(codes)) => {
            let kinds: Option<Vec<_>> = codes.iter().map(kind).collect();
            kinds.ok_or(TokenizerError::TokenTypeCode)
        }
        Some(_) => Err(TokenizerError::TokenTypeCode),
    }
}
