//! The templates of an opened checkpoint, and the special tokens that they name.

use serde_json::{Map, Value};

use super::{ChatTemplate, DEFAULT, TOOL_USE, TemplateError};
use crate::model::{ModelFiles, TokenizerSource};
use crate::tokenizer::Tokenizer;

/// The special tokens that templates may name, as `tokenizer_config.json` has them.
const TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl ChatTemplate {
    /// The chat templates of a checkpoint; `None` if it has none. Errors: as
    /// [`ChatTemplate::parse_named`].
    pub fn of_model(
        model: &ModelFiles,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, TemplateError> {
        let mut tokens = Map::new();
        for (name, id) in
            [("bos_token", tokenizer.bos_id()), ("eos_token", tokenizer.eos_ids().first().copied())]
        {
            let text = id.map(|id| tokenizer.token_text(id)).unwrap_or_default();
            tokens.insert(name.to_owned(), text.into());
        }
        let mut tool_use = None;
        match model.tokenizer() {
            TokenizerSource::Gguf(file) => {
                let key = "tokenizer.chat_template.tool_use";
                tool_use = file.metadata().text(key).ok().flatten().map(str::to_owned);
            }
            TokenizerSource::Json { config: Some(config), .. } => {
                tokens.extend(TOKENS.iter().filter_map(|&name| named_token(config, name)));
                let named = config["chat_template"].as_array().into_iter().flatten();
                let mut named = named.filter(|entry| entry["name"] == TOOL_USE);
                tool_use = named.find_map(|entry| Some(entry["template"].as_str()?.to_owned()));
            }
            TokenizerSource::Json { config: None, .. } => {}
        }
        let Some(default) = model.chat_template() else { return Ok(None) };
        let mut templates = vec![(DEFAULT, default.as_str())];
        templates.extend(tool_use.as_deref().map(|source| (TOOL_USE, source)));
        Self::parse_named(&templates, tokens).map(Some)
    }
}

/// A token that the configuration names, as text or as an object with one.
fn named_token(config: &Value, name: &str) -> Option<(String, Value)> {
    let token = config.get(name)?;
    let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
    Some((name.to_owned(), text.into()))
}
