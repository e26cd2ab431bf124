//! The real checkpoints in the cache that `make models` fills.

#![allow(dead_code)] // each test takes what it needs

use std::path::{Path, PathBuf};

use naru_engine::ModelFiles;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// The same weights as 32-bit floats.
pub(crate) const SMOLLM2_FLOATS: &str = "SmolLM2-135M-Instruct.F32.gguf";
pub(crate) const QWEN: &str = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf";
/// The directory with Qwen 2.5's own `tokenizer.json` and `tokenizer_config.json`.
pub(crate) const QWEN_TOKENIZER: &str = "Qwen2.5.tokenizer";

/// Where `name` is. Fails, and does not skip, where it is not.
pub(crate) fn path(name: &str) -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("NARU_CACHE_DIR")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("naru")))
        .or_else(|| Some(variable("HOME")?.join(".cache/naru")))
        .expect("one of NARU_CACHE_DIR, XDG_CACHE_HOME and HOME is set");
    let path = cache.join("models").join(name);
    assert!(path.exists(), "{} is missing: run `make models`", path.display());
    path
}

/// The checkpoint `file`, opened.
pub(crate) fn open(file: &str) -> ModelFiles {
    ModelFiles::open(&path(file)).expect("the checkpoint opens")
}

/// A Hugging Face checkpoint with the genuine tokenizer `name` and no weights, which a tokenizer
/// and a chat template do not need.
pub(crate) fn around_tokenizer(name: &str) -> (TempDir, ModelFiles) {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(directory.path().join(name), bytes).expect("a file is written");
    };
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = path(name).join(file);
        // Not every package that has the one has the other.
        if file == "tokenizer.json" || from.exists() {
            write(file, &std::fs::read(from).expect("the file is read"));
        }
    }
    let config = json!({
        "model_type": "qwen2", "num_hidden_layers": 24, "max_position_embeddings": 32768,
        "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": true,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
    });
    write("config.json", config.to_string().as_bytes());
    write("model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    let files = ModelFiles::open(directory.path()).expect("the checkpoint opens");
    (directory, files)
}

/// Every line of the texts that naru is compared with its peer on, a name of its place before it.
pub(crate) fn lines() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/text");
    let mut lines = Vec::new();
    for name in ["xquad-en", "klue-sts-ko", "xquad-ar", "xquad-th"] {
        let file = directory.join(name).with_extension("jsonl");
        let rows = std::fs::read_to_string(file).expect("the text is read");
        for (number, row) in rows.lines().enumerate() {
            let row: Value = serde_json::from_str(row).expect("a row of JSON");
            let texts = ["context", "a", "b"].into_iter().filter_map(|key| row.get(key));
            let texts = texts.chain(row["questions"].as_array().into_iter().flatten());
            let texts = texts.filter_map(Value::as_str);
            lines.extend(texts.map(|text| (format!("{name} row {number}"), text.to_owned())));
        }
    }
    assert_eq!(lines.len(), 5328);
    lines
}
