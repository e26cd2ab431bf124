use std::error::Error;

use crate::gguf::GgufError;

/// Why a checkpoint's tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// `tokenizer.ggml.model` names a kind of tokenizer that is not built.
    #[error("tokenizer model `{model}` is not supported (supported: {known})")]
    UnknownModel {
        /// What the file says.
        model: String,
        /// What it may say.
        known: &'static str,
    },
    /// `tokenizer.ggml.pre` names a way to cut words that is not built.
    #[error("pre-tokenizer `{pre}` is not supported (supported: {known})")]
    UnknownPreTokenizer {
        /// What the file says.
        pre: String,
        /// What it may say.
        known: String,
    },
    /// An entry of the file's metadata is of the wrong type.
    #[error("reading the vocabulary of the GGUF file")]
    Metadata {
        /// Which, and what it is instead.
        #[source]
        source: GgufError,
    },
    /// An entry of the file's metadata is not there.
    #[error("the GGUF file has no `{key}`")]
    Missing {
        /// The entry.
        key: &'static str,
    },
    /// A token or merge is not UTF-8.
    #[error("entry {index} of `{key}` is not UTF-8")]
    NoText {
        /// The list.
        key: &'static str,
        /// The place in it.
        index: usize,
    },
    /// A token type is no small number.
    #[error("`tokenizer.ggml.token_type` is not a list of type numbers")]
    TokenTypeCode,
    /// There is not one type for each token.
    #[error("the vocabulary has {tokens} tokens but {types} token types")]
    TokenTypes {
        /// Entries in `tokenizer.ggml.tokens`.
        tokens: usize,
        /// Entries in `tokenizer.ggml.token_type`.
        types: usize,
    },
    /// No tokens, or more than ids can number.
    #[error("a vocabulary of {tokens} tokens ({bytes} bytes) cannot be used")]
    Size {
        /// Entries in `tokenizer.ggml.tokens`.
        tokens: usize,
        /// Their bytes together.
        bytes: usize,
    },
    /// A merge is not two parts with one space between.
    #[error("merge {index} `{merge}` is not two tokens separated by a space")]
    Merge {
        /// Its place in `tokenizer.ggml.merges`.
        index: usize,
        /// What stands there.
        merge: String,
    },
    /// A special token's id is not in the vocabulary.
    #[error("`{key}` is {id}, but the vocabulary has {tokens} tokens")]
    SpecialId {
        /// The entry that names it.
        key: &'static str,
        /// The id it gives.
        id: u32,
        /// How many tokens there are.
        tokens: usize,
    },
    /// `tokenizer.json` could not be read.
    #[error("reading tokenizer.json")]
    Json {
        /// What the parser said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// `tokenizer.json` asks for something that is not supported.
    #[error("tokenizer.json: {what} is not supported")]
    JsonUnsupported {
        /// The part and its kind.
        what: String,
    },
}
