//! Model files: everything that a checkpoint on disk says about a model, opened but not yet loaded.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;

use crate::config::{self, ConfigReadError, Family, ModelConfig};
use crate::gguf::{GgufError, GgufFile, GgufIndex, Metadata};
use crate::weights::{self, MappedFile, Tensors, WeightError, WeightSample};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const GENERATION_CONFIG: &str = "generation_config.json";
/// Small files of a checkpoint; the largest real one, a tokenizer, has some tens of MB.
const SIDE_FILE_BYTES_MAX: u64 = 256 << 20;

/// A checkpoint: a GGUF file, or a directory with `config.json`, `*.safetensors` and
/// `tokenizer.json`. Weights are mapped, not read.
pub struct ModelFiles {
    path: PathBuf,
    config: ModelConfig,
    family: &'static Family,
    tensors: Arc<Tensors>,
    text: TextFiles,
    generation: GenerationDefaults,
}

enum TextFiles {
    Gguf { file: Arc<MappedFile>, index: Arc<GgufIndex> },
    Directory { tokenizer: Vec<u8>, config: Option<Value>, template: Option<String> },
}

/// Where a model's vocabulary is.
#[derive(Debug)]
pub enum TokenizerSource<'a> {
    /// In the metadata of its GGUF file.
    Gguf(GgufFile<'a>),
    /// In files of its directory.
    Json {
        /// The bytes of `tokenizer.json`.
        tokenizer: &'a [u8],
        /// What `tokenizer_config.json` holds, if it is there.
        config: Option<&'a Value>,
    },
}

/// What a checkpoint recommends for generation; all of it optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end an answer, beside those the tokenizer knows.
    pub eos_ids: Vec<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Nucleus sampling's share of probability.
    pub top_p: Option<f32>,
    /// The most likely tokens that are kept.
    pub top_k: Option<u32>,
    /// Least probability relative to the likeliest token.
    pub min_p: Option<f32>,
    /// What logits of seen tokens are divided by.
    pub repetition_penalty: Option<f32>,
}

/// A checkpoint that cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file could not be opened or read.
    #[error("opening {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A side file is too large to be what its name says.
    #[error("{path} has {bytes} bytes; at most {limit} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },
    /// The GGUF file is not sound.
    #[error("reading {path}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: GgufError,
    },
    /// A JSON file is not sound.
    #[error("reading {path}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The weights' files are not sound.
    #[error("reading the weights in {path}")]
    Weights {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: WeightError,
    },
    /// The model is not one that can be served here.
    #[error("reading the configuration in {path}")]
    Config {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ConfigReadError,
    },
}

impl OpenError {
    /// Whether the file breaks off, or is something else altogether, a web page for example: what
    /// an upload that was not finished leaves, or a server that answers with its own words.
    pub fn is_spoilt(&self) -> bool {
        let Self::Gguf { source, .. } = self else { return false };
        matches!(source, GgufError::Truncated { .. } | GgufError::Magic { .. })
    }
}

impl ModelFiles {
    /// Opens the checkpoint at `path`, a GGUF file or a directory. Errors: what is missing or
    /// unsound, by name.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            Self::open_directory(path)
        } else {
            Self::open_gguf(path)
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, OpenError> {
        let owned = || path.to_owned();
        let file =
            MappedFile::open(path).map_err(|source| OpenError::Open { path: owned(), source })?;
        let file = Arc::new(file);
        let unsound = |source| OpenError::Gguf { path: owned(), source };
        let gguf = GgufFile::parse(file.bytes()).map_err(unsound)?;
        let tensors = Tensors::of_gguf(Arc::clone(&file), gguf.tensors());
        let (config, family) = config::read_gguf(&gguf.metadata(), &tensors)
            .map_err(|source| OpenError::Config { path: owned(), source })?;
        let generation = gguf_generation(&gguf.metadata()).map_err(unsound)?;
        let index = gguf.into_index();
        let text = TextFiles::Gguf { file, index };
        let tensors = Arc::new(tensors);
        Ok(Self { path: owned(), config, family, tensors, text, generation })
    }

    fn open_directory(path: &Path) -> Result<Self, OpenError> {
        let owned = || path.to_owned();
        let json = read_json(&path.join(CONFIG))?;
        let tensors = weights::open_directory(path)
            .map_err(|source| OpenError::Weights { path: owned(), source })?;
        let (config, family) = config::read_json(&json, &tensors)
            .map_err(|source| OpenError::Config { path: owned(), source })?;
        let tokenizer = read_file(&path.join(TOKENIZER))?;
        let tokenizer_config = read_optional_json(&path.join(TOKENIZER_CONFIG))?;
        let template = match read_optional(&path.join(CHAT_TEMPLATE))? {
            Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            None => tokenizer_config.as_ref().and_then(default_template),
        };
        let generation = read_optional_json(&path.join(GENERATION_CONFIG))?;
        let generation = json_generation(&json, generation.as_ref());
        let text = TextFiles::Directory { tokenizer, config: tokenizer_config, template };
        let tensors = Arc::new(tensors);
        Ok(Self { path: owned(), config, family, tensors, text, generation })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The blocks and sizes of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of all weights on disk.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.bytes()
    }

    /// A few bytes of each tensor, in the order of their names.
    pub fn samples(&self) -> impl Iterator<Item = WeightSample<'_>> {
        self.tensors.samples()
    }

    /// Where the vocabulary is.
    pub fn tokenizer(&self) -> TokenizerSource<'_> {
        match &self.text {
            TextFiles::Gguf { file, index } => {
                TokenizerSource::Gguf(GgufFile::from_index(file.bytes(), Arc::clone(index)))
            }
            TextFiles::Directory { tokenizer, config, .. } => {
                TokenizerSource::Json { tokenizer, config: config.as_ref() }
            }
        }
    }

    /// The source of the chat template, if the checkpoint has one.
    pub fn chat_template(&self) -> Option<String> {
        match &self.text {
            TextFiles::Gguf { file, index } => {
                let gguf = GgufFile::from_index(file.bytes(), Arc::clone(index));
                gguf.metadata().text("tokenizer.chat_template").ok().flatten().map(str::to_owned)
            }
            TextFiles::Directory { template, .. } => template.clone(),
        }
    }

    /// What the checkpoint recommends for generation.
    pub fn generation(&self) -> &GenerationDefaults {
        &self.generation
    }

    pub(crate) fn family(&self) -> &'static Family {
        self.family
    }

    pub(crate) fn tensors(&self) -> &Arc<Tensors> {
        &self.tensors
    }
}

impl fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, config, .. } = self;
        f.debug_struct("ModelFiles").field("path", path).field("config", config).finish()
    }
}

fn gguf_generation(metadata: &Metadata<'_>) -> Result<GenerationDefaults, GgufError> {
    let id = |key: &str| Ok(metadata.unsigned(key)?.and_then(|id| u32::try_from(id).ok()));
    let mut eos_ids = Vec::new();
    for key in ["eos", "eot", "eom"] {
        eos_ids.extend(id(&format!("tokenizer.ggml.{key}_token_id"))?);
    }
    Ok(GenerationDefaults {
        eos_ids,
        temperature: metadata.float("general.sampling.temp")?,
        top_p: metadata.float("general.sampling.top_p")?,
        top_k: id("general.sampling.top_k")?,
        min_p: metadata.float("general.sampling.min_p")?,
        repetition_penalty: metadata.float("general.sampling.penalty_repeat")?,
    })
}

/// `generation_config.json` speaks before `config.json`, as in transformers. Values of the wrong
/// type are as good as absent: they are recommendations.
fn json_generation(config: &Value, generation: Option<&Value>) -> GenerationDefaults {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let eos = generation.and_then(|json| json.get("eos_token_id")).or(config.get("eos_token_id"));
    let eos_ids = match eos {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    };
    let value = |key: &str| generation.and_then(|json| json.get(key));
    let float = |key| value(key).and_then(Value::as_f64).map(|value| value as f32);
    GenerationDefaults {
        eos_ids,
        temperature: float("temperature"),
        top_p: float("top_p"),
        top_k: value("top_k").and_then(id),
        min_p: float("min_p"),
        repetition_penalty: float("repetition_penalty"),
    }
}

/// `chat_template` of `tokenizer_config.json`: a text, or a list of named ones of which `default`
/// counts.
fn default_template(config: &Value) -> Option<String> {
    let template = config.get("chat_template")?;
    let named = |list: &Vec<Value>| {
        let default =
            list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
        default.and_then(|entry| entry.get("template")?.as_str()).map(str::to_owned)
    };
    template.as_str().map(str::to_owned).or_else(|| template.as_array().and_then(named))
}

fn read_file(path: &Path) -> Result<Vec<u8>, OpenError> {
    let failed = |source| OpenError::Open { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > SIDE_FILE_BYTES_MAX {
        let limit = SIDE_FILE_BYTES_MAX;
        return Err(OpenError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    std::fs::read(path).map_err(failed)
}

fn read_json(path: &Path) -> Result<Value, OpenError> {
    let bytes = read_file(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|source| OpenError::Json { path: path.to_owned(), source })
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    if path.exists() { read_file(path).map(Some) } else { Ok(None) }
}

fn read_optional_json(path: &Path) -> Result<Option<Value>, OpenError> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests;
