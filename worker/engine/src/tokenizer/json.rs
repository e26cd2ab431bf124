//! `tokenizer.json`, run by the `tokenizers` crate. Its tokens' bytes are worked out once, from what
//! its decoder does, so that a stream can be decoded token by token.

use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer as Pipeline};

use super::table::TokenTable;
use super::{EncodeOptions, TokenKind, TokenizerError, byte_alphabet};

/// What [`JsonEncoder::read`] makes of the files.
pub(super) struct Read {
    pub(super) encoder: JsonEncoder,
    pub(super) table: TokenTable,
    pub(super) bos: Option<u32>,
    pub(super) eos: Vec<u32>,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
}

/// The encoder of a `tokenizer.json`.
pub(super) struct JsonEncoder {
    pipeline: Pipeline,
    /// The same, but reading the text of control tokens as text. Seldom asked for, so made late.
    plain: OnceLock<Box<Pipeline>>,
    /// The post-processor adds the special tokens. Not where `tokenizer_config.json` says which:
    /// that then is all that is added.
    post_processes: bool,
    strips_leading_space: bool,
}

/// What the decoder does to a token; see [`Spelling::bytes`].
#[derive(Debug, Default)]
struct Spelling {
    /// Tokens are written in the byte alphabet.
    byte_level: bool,
    /// `<0x0A>` is that byte.
    byte_fallback: bool,
    /// Texts that stand for others: `▁` for a space.
    replaced: Vec<(String, String)>,
    /// A text's first space is not shown.
    strips_leading_space: bool,
}

fn unsupported(what: impl Into<String>) -> TokenizerError {
    TokenizerError::JsonUnsupported { what: what.into() }
}

impl JsonEncoder {
    /// Reads `tokenizer.json` and `tokenizer_config.json`. Errors: no JSON, or not a tokenizer's; a
    /// model that is neither BPE nor Unigram; a decoder that does not work token by token.
    pub(super) fn read(json: &[u8], config: Option<&Value>) -> Result<Read, TokenizerError> {
        let mut pipeline =
            Pipeline::from_bytes(json).map_err(|source| TokenizerError::Json { source })?;
        pipeline.with_padding(None);
        pipeline.with_truncation(None).map_err(|source| TokenizerError::Json { source })?;
        check_model(&pipeline)?;
        let spelling = Spelling::of(&pipeline)?;
        let table = table(&pipeline, &spelling)?;
        let named = |name: &str| {
            let token = config.and_then(|config| config.get(name));
            let text = token.and_then(|token| token.as_str().or(token.get("content")?.as_str()));
            text.and_then(|text| table.id(text.as_bytes()))
        };
        let (bos, eos) = (named("bos_token"), named("eos_token"));
        let strips_leading_space = spelling.strips_leading_space;
        let asked = |key| config.and_then(|config| config.get(key)?.as_bool());
        let (add_bos, add_eos) = (asked("add_bos_token"), asked("add_eos_token"));
        let post_processes = add_bos.is_none() && add_eos.is_none();
        let plain = OnceLock::new();
        Ok(Read {
            encoder: Self { pipeline, plain, post_processes, strips_leading_space },
            table,
            bos,
            eos: eos.into_iter().collect(),
            add_bos: add_bos.unwrap_or(false),
            add_eos: add_eos.unwrap_or(false),
        })
    }

    /// The ids of `text`, with what the checkpoint's post-processor adds if that is asked for.
    pub(super) fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let pipeline = if options.parse_special {
            &self.pipeline
        } else {
            self.plain.get_or_init(|| {
                let mut plain = Box::new(self.pipeline.clone());
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        // `check_model` left no model that refuses a text.
        let encoding = pipeline.encode_fast(text, options.add_special && self.post_processes);
        encoding.map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
    }

    /// Takes off the space that the decoder does not show at a text's start.
    pub(super) fn trim_start(&self, text: &mut String) {
        if self.strips_leading_space && text.starts_with(' ') {
            text.remove(0);
        }
    }
}

/// Only models that give ids to every text, and always the same, are run.
fn check_model(pipeline: &Pipeline) -> Result<(), TokenizerError> {
    match pipeline.get_model() {
        ModelWrapper::BPE(bpe) => {
            if bpe.dropout.is_some_and(|dropout| dropout > 0.0) {
                return Err(unsupported("a BPE model with dropout"));
            }
            let unknown = bpe.unk_token.as_ref();
            match unknown.filter(|token| pipeline.token_to_id(token).is_none()) {
                Some(token) => Err(unsupported(format!("unk_token `{token}`, which has no id,"))),
                None => Ok(()),
            }
        }
        // A Unigram model without an unknown token refuses some texts; this is one of them unless
        // every byte is a token.
        ModelWrapper::Unigram(_) => match pipeline.encode_fast("\u{10fffe}", false) {
            Ok(_) => Ok(()),
            Err(_) => Err(unsupported("a Unigram model without an unknown token")),
        },
        ModelWrapper::WordPiece(_) => Err(unsupported("model type `WordPiece`")),
        ModelWrapper::WordLevel(_) => Err(unsupported("model type `WordLevel`")),
    }
}

/// For each id its text, kind and bytes. Ids that the file leaves out are unused.
fn table(pipeline: &Pipeline, spelling: &Spelling) -> Result<TokenTable, TokenizerError> {
    let vocabulary = pipeline.get_vocab(true);
    let tokens = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
    if tokens > TokenTable::TOKENS_MAX {
        return Err(TokenizerError::Size { tokens, bytes: 0 });
    }
    let mut entries = vec![("", TokenKind::Unused); tokens];
    for (text, &id) in &vocabulary {
        let byte = spelling.byte_fallback && fallback_byte(text).is_some();
        entries[id as usize] = (text, if byte { TokenKind::Byte } else { TokenKind::Normal });
    }
    for (id, added) in pipeline.get_added_tokens_decoder() {
        let kind = if added.special { TokenKind::Control } else { TokenKind::UserDefined };
        if let Some(entry) = entries.get_mut(id as usize) {
            entry.1 = kind;
        }
    }
    TokenTable::build(entries.iter().copied(), |text, kind, out| spelling.bytes(text, kind, out))
}

/// The byte that `<0x0A>` writes.
fn fallback_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

impl Spelling {
    fn of(pipeline: &Pipeline) -> Result<Self, TokenizerError> {
        let mut spelling = Self::default();
        if let Some(decoder) = pipeline.get_decoder() {
            let decoder = serde_json::to_value(decoder)
                .map_err(|source| TokenizerError::Json { source: source.into() })?;
            spelling.add(&decoder)?;
        }
        Ok(spelling)
    }

    /// Adds what one decoder, or a sequence of them, does.
    fn add(&mut self, decoder: &Value) -> Result<(), TokenizerError> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match decoder["type"].as_str().unwrap_or_default() {
            "Sequence" => {
                for each in decoder["decoders"].as_array().into_iter().flatten() {
                    self.add(each)?;
                }
            }
            "ByteLevel" => self.byte_level = true,
            "ByteFallback" => self.byte_fallback = true,
            "Fuse" => {}
            "Replace" => {
                let pattern = text(&decoder["pattern"]["String"]);
                match (pattern, text(&decoder["content"])) {
                    (Some(from), Some(to)) => self.replaced.push((from, to)),
                    _ => return Err(unsupported("a decoder that replaces by pattern")),
                }
            }
            "Metaspace" => {
                let space = text(&decoder["replacement"]).unwrap_or_else(|| "▁".to_owned());
                self.replaced.push((space, " ".to_owned()));
                self.strips_leading_space = decoder["prepend_scheme"] != "never";
            }
            "Strip" => {
                let leading = decoder["content"] == " " && decoder["start"] == 1;
                if !leading || decoder["stop"] != 0 {
                    return Err(unsupported("a decoder that strips other than one leading space"));
                }
                self.strips_leading_space = true;
            }
            other => return Err(unsupported(format!("decoder type `{other}`"))),
        }
        Ok(())
    }

    /// Appends what the token written `text` stands for.
    fn bytes(&self, text: &str, kind: TokenKind, out: &mut Vec<u8>) {
        match kind {
            TokenKind::Control | TokenKind::UserDefined => out.extend_from_slice(text.as_bytes()),
            TokenKind::Byte => out.extend(fallback_byte(text)),
            _ if self.byte_level => byte_alphabet::push_bytes(text, out),
            _ => {
                let start = text.to_owned();
                let text =
                    self.replaced.iter().fold(start, |text, (from, to)| text.replace(from, to));
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}
