//! The text side of a checkpoint: its tokenizer and its chat template.

use anyhow::Context;
use naru_engine::{ChatTemplate, ModelFiles, Tokenizer};

/// What turns text into tokens and conversations into text.
pub(crate) struct Text {
    pub(crate) tokenizer: Tokenizer,
    /// `None`: the checkpoint has none.
    pub(crate) template: Option<ChatTemplate>,
}

/// Reads both. Errors: what in the checkpoint cannot be used.
pub(crate) fn read(files: &ModelFiles) -> anyhow::Result<Text> {
    let tokenizer = Tokenizer::of_model(files).context("reading the tokenizer")?;
    let template =
        ChatTemplate::of_model(files, &tokenizer).context("reading the chat template")?;
    if template.is_none() {
        tracing::warn!("the checkpoint has no chat template: chat requests will be refused");
    }
    Ok(Text { tokenizer, template })
}
