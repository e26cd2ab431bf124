//! `tokenizer.json`, run by the `tokenizers` crate. Its tokens' bytes are worked out once, from
//! what its decoder does, so that a stream can be decoded token by token.

use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::{ModelWrapper, PostProcessorWrapper, Tokenizer as Pipeline};

use super::table::TokenTable;
use super::{Frame, TokenKind, TokenizerError, byte_alphabet};

/// What [`JsonEncoder::read`] makes of the files.
pub(super) struct Read {
    pub(super) encoder: JsonEncoder,
    pub(super) table: TokenTable,
    pub(super) bos: Option<u32>,
    pub(super) eos: Vec<u32>,
    /// What a sequence begins and ends with.
    pub(super) frame: Frame,
}

/// The encoder of a `tokenizer.json`.
pub(super) struct JsonEncoder {
    pipeline: Pipeline,
    /// The same, but reading the text of control tokens as text. Seldom asked for, so made late.
    plain: OnceLock<Box<Pipeline>>,
    strips_leading_space: bool,
}

/// The parts of `tokenizer.json` that are read here.
#[derive(serde::Deserialize)]
struct Parts {
    post_processor: Option<Value>,
    decoder: Option<Value>,
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
        let unsound = |source: serde_json::Error| TokenizerError::Json { source: source.into() };
        // Also before the pipeline is built: its parser panics on a decoder that is no JSON.
        let Parts { post_processor, decoder } = serde_json::from_slice(json).map_err(unsound)?;
        let mut pipeline =
            Pipeline::from_bytes(json).map_err(|source| TokenizerError::Json { source })?;
        // Its work is done here: it panics on tokens that it does not know.
        pipeline.with_post_processor(None::<PostProcessorWrapper>);
        pipeline.with_padding(None);
        pipeline.with_truncation(None).map_err(|source| TokenizerError::Json { source })?;
        check_model(&pipeline)?;
        let mut spelling = Spelling::default();
        if let Some(decoder) = decoder {
            spelling.add(&decoder)?;
        }
        let table = table(&pipeline, &spelling)?;
        let named = |name: &str| {
            let token = config.and_then(|config| config.get(name));
            let text =
                token.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
            text.and_then(|text| table.id(text.as_bytes()))
        };
        let (bos, eos) = (named("bos_token"), named("eos_token"));
        let strips_leading_space = spelling.strips_leading_space;
        let mut frame = Frame::default();
        if let Some(processor) = post_processor {
            add_processor(&processor, table.len(), &mut frame)?;
        }
        // Where the configuration says what is added, that is all that is added.
        let asked = |key| config.and_then(|config| config.get(key)?.as_bool());
        let (add_bos, add_eos) = (asked("add_bos_token"), asked("add_eos_token"));
        if add_bos.is_some() || add_eos.is_some() {
            let wanted = |asked: Option<bool>, id: Option<u32>| id.filter(|_| asked == Some(true));
            frame.before = wanted(add_bos, bos).into_iter().collect();
            frame.after = wanted(add_eos, eos).into_iter().collect();
        }
        let encoder = Self { pipeline, plain: OnceLock::new(), strips_leading_space };
        Ok(Read { encoder, table, bos, eos: eos.into_iter().collect(), frame })
    }

    /// The ids of `text`.
    pub(super) fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let pipeline = if parse_special {
            &self.pipeline
        } else {
            self.plain.get_or_init(|| {
                let mut plain = Box::new(self.pipeline.clone());
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        // `check_model` left no model that refuses a text.
        let encoding = pipeline.encode_fast(text, false);
        encoding.map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
    }

    /// Takes off the space that the decoder does not show at a text's start.
    pub(super) fn trim_start(&self, text: &mut String) {
        if self.strips_leading_space && text.starts_with(' ') {
            text.remove(0);
        }
    }
}

/// Adds the ids that a post-processor puts around a single text.
fn add_processor(
    processor: &Value,
    tokens: usize,
    frame: &mut Frame,
) -> Result<(), TokenizerError> {
    let mut add = |id: Option<u64>, before: bool| {
        let id = id.and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX);
        if id as usize >= tokens {
            return Err(TokenizerError::SpecialId { key: "post_processor", id, tokens });
        }
        if before {
            frame.before.push(id)
        } else {
            frame.after.push(id)
        }
        Ok(())
    };
    match processor["type"].as_str().unwrap_or_default() {
        "Sequence" => {
            for each in processor["processors"].as_array().into_iter().flatten() {
                add_processor(each, tokens, frame)?;
            }
        }
        "ByteLevel" => {}
        "TemplateProcessing" => {
            let mut before = true;
            for piece in processor["single"].as_array().into_iter().flatten() {
                match piece["SpecialToken"]["id"].as_str() {
                    None => before = false,
                    Some(name) => {
                        let ids = processor["special_tokens"][name]["ids"].as_array();
                        let ids =
                            ids.ok_or_else(|| unsupported(format!("a template's `{name}`")))?;
                        ids.iter().try_for_each(|id| add(id.as_u64(), before))?;
                    }
                }
            }
        }
        other => return Err(unsupported(format!("post-processor type `{other}`"))),
    }
    Ok(())
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
            TokenKind::Control => out.extend_from_slice(text.as_bytes()),
            TokenKind::Byte => out.extend(fallback_byte(text)),
            // Added tokens are written as they are read, not in the byte alphabet.
            TokenKind::UserDefined if self.byte_level => out.extend_from_slice(text.as_bytes()),
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
