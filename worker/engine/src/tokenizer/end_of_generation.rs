//! Which tokens end a generation. A GGUF file names one or two; models also end with others that
//! it does not name (a turn's end, a file's end), which are known by how they are written.

use super::table::TokenTable;
use super::vocabulary::{GgufVocabulary, TokenKind};

/// Tokens that end a generation wherever a vocabulary has them.
const WRITTEN: [&str; 25] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<eos>",
    "</s>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<turn|>",
    "<｜end▁of▁sentence｜>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<|repo_name|>",
    "<reponame>",
    "<|file_sep|>",
];

/// The ids that end a generation, the vocabulary's end-of-sequence token first, each once. Those
/// known by how they are written become control tokens, whatever the file calls them.
pub(super) fn of_vocabulary(vocabulary: &GgufVocabulary<'_>, table: &mut TokenTable) -> Vec<u32> {
    let mut ids = Vec::new();
    for id in [vocabulary.eos, vocabulary.eot, vocabulary.eom].into_iter().flatten() {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    // In the harmony format `<|end|>` ends a message, and generation goes on.
    let harmony = ["<|return|>", "<|call|>"].iter().all(|text| table.id(text.as_bytes()).is_some());
    for text in WRITTEN.into_iter().filter(|&text| !(harmony && text == "<|end|>")) {
        if let Some(id) = table.id(text.as_bytes()) {
            table.set_kind(id, TokenKind::Control);
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
    }
    ids
}
