/// What a token is for: GGUF's `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Steers the model; read from text only where that is asked for.
    Control,
    /// Text that is always read as this one token.
    UserDefined,
    /// Fills the vocabulary up.
    Unused,
    /// One byte.
    Byte,
}

impl TokenKind {
    /// The kind that GGUF numbers `code`; numbers it does not define are text.
    pub fn from_gguf(code: i32) -> Self {
        match code {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// A GGUF file's `tokenizer.ggml.*` entries, borrowed.
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary<'a> {
    /// `model`: the kind of tokenizer; only `gpt2` (byte-level BPE) is built.
    pub model: &'a str,
    /// `pre`: how text is cut into words before merging; absent means `default`.
    pub pre: Option<&'a str>,
    /// `tokens`: the text of each id, byte-level BPE's alphabet for text tokens.
    pub tokens: Vec<&'a str>,
    /// `token_type`: one [`TokenKind`] for each token, or empty when all are text.
    pub kinds: Vec<TokenKind>,
    /// `merges`: two parts with a space between, the first merged first.
    pub merges: Vec<&'a str>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: ends a turn.
    pub eot: Option<u32>,
    /// `eom_token_id`: ends a message.
    pub eom: Option<u32>,
    /// `add_bos_token`: absent means as the pre-tokenizer usually has it.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
}
