//! Which files of a place a model is made of. Pure.

use super::error::FetchError;

/// Files beside the weights that say what the model is; what of them is there is fetched.
const SIDE_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];
/// Names shown when one has to be chosen.
const CHOICES_MAX: usize = 20;

/// One file of a repository, of a bucket's folder, or of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Its path there.
    pub(super) name: String,
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
}

/// Which files to fetch: the one named, else the safetensors with what belongs to them, else the
/// only .gguf file. `place` is what people call it: `hf://ORG/REPO`, `s3://BUCKET/FOLDER`.
pub(super) fn choose<'a>(
    place: &str,
    named: Option<&str>,
    files: &'a [RemoteFile],
) -> Result<Vec<&'a RemoteFile>, FetchError> {
    if let Some(name) = named {
        let found = files.iter().find(|file| file.name == name);
        let (place, file) = (place.to_owned(), name.to_owned());
        return Ok(vec![found.ok_or(FetchError::NoSuchFile { place, file })?]);
    }
    let top = |file: &&RemoteFile| !file.name.contains('/');
    let weights = |file: &&RemoteFile| file.name.ends_with(".safetensors");
    let weights: Vec<&RemoteFile> = files.iter().filter(top).filter(weights).collect();
    let has_config = files.iter().any(|file| file.name == "config.json");
    if has_config && !weights.is_empty() {
        // Some repositories hold the same weights again under another name.
        let usual = |file: &&RemoteFile| file.name.starts_with("model");
        let usual: Vec<&RemoteFile> = weights.iter().copied().filter(usual).collect();
        let weights = if usual.is_empty() { weights } else { usual };
        let side = files.iter().filter(|file| SIDE_FILES.contains(&file.name.as_str()));
        return Ok(side.chain(weights).collect());
    }
    let ggufs: Vec<&RemoteFile> =
        files.iter().filter(|file| file.name.ends_with(".gguf")).collect();
    match ggufs.len() {
        0 => Err(FetchError::NoWeights { place: place.to_owned() }),
        1 => Ok(ggufs),
        _ => {
            let uri = |file: &&RemoteFile| format!("{place}/{}", file.name);
            let choices = ggufs.iter().take(CHOICES_MAX).map(uri).collect();
            Err(FetchError::SeveralFiles { place: place.to_owned(), choices })
        }
    }
}
