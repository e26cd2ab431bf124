use super::TokenizerError;
use super::byte_alphabet;
use super::vocabulary::{GgufVocabulary, TokenKind};

/// For each id what it stands for and its kind, and for each written token its id. The texts lie
/// one after another in two arenas, so that a table of 150,000 tokens is built in milliseconds.
pub(super) struct TokenTable {
    written: Arena,
    bytes: Arena,
    kinds: Vec<TokenKind>,
    index: Index,
}

impl TokenTable {
    /// The most tokens a vocabulary may have: ids stay far from the numbers that mark empty slots.
    pub(super) const TOKENS_MAX: usize = 1 << 24;

    /// The table of a byte-level vocabulary: text tokens are written in its alphabet, the others
    /// as they are. Errors: no tokens or too many, one type too few, an id outside.
    pub(super) fn from_vocabulary(vocabulary: &GgufVocabulary<'_>) -> Result<Self, TokenizerError> {
        let tokens = vocabulary.tokens.len();
        let types = vocabulary.kinds.len();
        if types != 0 && types != tokens {
            return Err(TokenizerError::TokenTypes { tokens, types });
        }
        let ids = [
            ("tokenizer.ggml.bos_token_id", vocabulary.bos),
            ("tokenizer.ggml.eos_token_id", vocabulary.eos),
            ("tokenizer.ggml.eot_token_id", vocabulary.eot),
            ("tokenizer.ggml.eom_token_id", vocabulary.eom),
        ];
        for (key, id) in ids.into_iter().filter_map(|(key, id)| Some((key, id?))) {
            if id as usize >= tokens {
                return Err(TokenizerError::SpecialId { key, id, tokens });
            }
        }
        let kind = |id: usize| vocabulary.kinds.get(id).copied().unwrap_or(TokenKind::Normal);
        let entries = vocabulary.tokens.iter().enumerate().map(|(id, &text)| (text, kind(id)));
        Self::build(entries, |text, kind, out| match kind {
            TokenKind::Normal | TokenKind::Byte => byte_alphabet::push_bytes(text, out),
            _ => out.extend_from_slice(text.as_bytes()),
        })
    }

    /// A table of `entries` in order of id; `push_bytes` appends what a token stands for.
    pub(super) fn build<'a>(
        entries: impl ExactSizeIterator<Item = (&'a str, TokenKind)> + Clone,
        push_bytes: impl Fn(&str, TokenKind, &mut Vec<u8>),
    ) -> Result<Self, TokenizerError> {
        let tokens = entries.len();
        let bytes = entries.clone().map(|(text, _)| text.len()).sum();
        // A token may stand for at most as many bytes as it is written with.
        if tokens == 0 || tokens > Self::TOKENS_MAX || u32::try_from(bytes).is_err() {
            return Err(TokenizerError::Size { tokens, bytes });
        }
        let mut table = Self {
            written: Arena::with_capacity(tokens, bytes),
            bytes: Arena::with_capacity(tokens, bytes),
            kinds: Vec::with_capacity(tokens),
            index: Index::with_capacity(tokens),
        };
        for (text, kind) in entries {
            table.written.push(|out| out.extend_from_slice(text.as_bytes()));
            table.bytes.push(|out| push_bytes(text, kind, out));
            table.kinds.push(kind);
        }
        for id in 0..tokens as u32 {
            table.index.insert(&table.written, id);
        }
        Ok(table)
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        self.kinds[id as usize] = kind;
    }

    /// What `id` stands for; empty outside the table.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// How `id` is written in the vocabulary; empty outside the table.
    pub(super) fn written(&self, id: u32) -> &[u8] {
        self.written.get(id)
    }

    /// Whether `id` is what [`Self::id`] finds for `left` and `right` together; quick to tell, and
    /// may be false where it is.
    pub(super) fn is_written(&self, id: u32, left: &[u8], right: &[u8]) -> bool {
        let written = self.written(id);
        !self.index.repeats && written.strip_prefix(left).is_some_and(|rest| rest == right)
    }

    /// The last token written `text`; none is written as nothing.
    pub(super) fn id(&self, text: &[u8]) -> Option<u32> {
        if text.is_empty() {
            return None;
        }
        self.index.find(&self.written, text)
    }
}

/// Strings one after another.
struct Arena {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Arena {
    fn with_capacity(strings: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(strings) }
    }

    fn push(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.bytes);
        let end = u32::try_from(self.bytes.len()).expect("the builder bounded the bytes");
        self.ends.push(end);
    }

    fn get(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else { return &[] };
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        &self.bytes[start as usize..end as usize]
    }
}

/// Which id has a text: open addressing over the arena, three quarters full at most.
struct Index {
    /// The hash's upper half and the id, or [`Index::EMPTY`].
    slots: Vec<(u32, u32)>,
    mask: usize,
    /// Some text has two ids; the last counts.
    repeats: bool,
}

impl Index {
    const EMPTY: (u32, u32) = (0, u32::MAX);

    fn with_capacity(tokens: usize) -> Self {
        let slots = (tokens + tokens / 3 + 1).next_power_of_two();
        Self { slots: vec![Self::EMPTY; slots], mask: slots - 1, repeats: false }
    }

    fn insert(&mut self, arena: &Arena, id: u32) {
        let text = arena.get(id);
        let (slot, before) = self.probe(arena, text);
        self.slots[slot] = ((hash(text) >> 32) as u32, id);
        self.repeats |= before.is_some();
    }

    fn find(&self, arena: &Arena, text: &[u8]) -> Option<u32> {
        self.probe(arena, text).1
    }

    /// The slot of `text`, or the empty one where it belongs.
    fn probe(&self, arena: &Arena, text: &[u8]) -> (usize, Option<u32>) {
        let hash = hash(text);
        let mut slot = hash as usize & self.mask;
        loop {
            let (tag, id) = self.slots[slot];
            if (tag, id) == Self::EMPTY {
                return (slot, None);
            }
            if tag == (hash >> 32) as u32 && arena.get(id) == text {
                return (slot, Some(id));
            }
            slot = (slot + 1) & self.mask;
        }
    }
}

/// Spreads short texts well; multiplicative, eight bytes at a time.
fn hash(text: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = text.len() as u64;
    let mut mix = |word: u64| {
        let wide = u128::from(hash ^ word) * u128::from(ODD);
        hash = (wide as u64) ^ (wide >> 64) as u64 ^ ODD;
    };
    let mut words = text.chunks_exact(8);
    for word in &mut words {
        mix(u64::from_le_bytes(word.try_into().expect("chunks are of eight bytes")));
    }
    let tail = words.remainder().iter().fold(1, |tail, &byte| (tail << 8) | u64::from(byte));
    mix(tail);
    mix(0);
    hash
}
