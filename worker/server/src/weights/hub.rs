//! Repositories of the Hugging Face hub: which files a model is made of, and where they go.

use std::fs;
use std::path::PathBuf;

use reqwest::Client;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;

use super::error::FetchError;
use super::fetch::{self, FileRequest, Retries};
use super::uri::{HubRepo, is_safe};
use super::{Fetcher, Sources};

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

/// What the hub says of a repository at a revision.
#[derive(Debug, Clone, Deserialize)]
struct Listing {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Clone, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<LargeFile>,
}

#[derive(Debug, Clone, Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

impl Sibling {
    fn bytes(&self) -> Option<u64> {
        self.lfs.as_ref().map(|file| file.size).or(self.size)
    }
}

/// The path of `repo`'s weights in the cache, fetched as far as they are not there: a .gguf file,
/// or a directory.
pub(super) async fn obtain(
    sources: &Sources,
    client: &Client,
    repo: &HubRepo,
    fetcher: &Fetcher,
) -> Result<PathBuf, FetchError> {
    let home = sources.cache_dir.join("hub").join(repo.name.replace('/', "--"));
    let known = home.join("refs").join(&repo.revision);
    let listing = match list_patiently(sources, client, repo).await {
        Ok(listing) => listing,
        // What was fetched completely before serves while the network does not.
        Err(error) if error.is_transient() => return earlier(repo, &home, &known).ok_or(error),
        Err(error) => return Err(error),
    };
    let chosen = choose(repo, &listing)?;
    let directory = home.join(&listing.sha);
    let mut progress = fetcher.follow(chosen.iter().filter_map(|file| file.bytes()).sum());
    for file in &chosen {
        let name = &file.rfilename;
        let request = FileRequest {
            url: format!("{}/{}/resolve/{}/{name}", sources.hub_endpoint, repo.name, listing.sha),
            token: sources.hub_token.clone(),
            target: directory.join(name),
            sha256: file.lfs.as_ref().map(|file| file.sha256.clone()),
            size: file.bytes(),
        };
        fetch::file(client, &request, &sources.patience, &mut progress).await?;
    }
    progress.finish();
    remember(&known, &listing.sha)?;
    Ok(match chosen.as_slice() {
        [only] if only.rfilename.ends_with(".gguf") => directory.join(&only.rfilename),
        _ => directory,
    })
}

async fn list_patiently(
    sources: &Sources,
    client: &Client,
    repo: &HubRepo,
) -> Result<Listing, FetchError> {
    let mut retries = Retries::new(&sources.patience);
    loop {
        match list(sources, client, repo).await {
            Ok(listing) => return Ok(listing),
            Err(error) => retries.pause(error.into()).await?,
        }
    }
}

async fn list(sources: &Sources, client: &Client, repo: &HubRepo) -> Result<Listing, FetchError> {
    let Sources { hub_endpoint, hub_token, .. } = sources;
    let HubRepo { name, revision, .. } = repo;
    let url = format!("{hub_endpoint}/api/models/{name}/revision/{revision}?blobs=true");
    let mut builder = client.get(&url);
    if let Some(token) = hub_token {
        builder = builder.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let response = builder
        .send()
        .await
        .map_err(|source| FetchError::of_network(&url, source.without_url()))?;
    if !response.status().is_success() {
        return Err(FetchError::of_status(&url, response.status()));
    }
    let body = response.bytes().await;
    let body = body.map_err(|source| FetchError::of_network(&url, source.without_url()))?;
    let listing: Listing =
        serde_json::from_slice(&body).map_err(|source| FetchError::Listing { url, source })?;
    let safe = |file: &Sibling| is_safe(&file.rfilename) || file.rfilename.starts_with('.');
    if !is_safe(&listing.sha) || listing.sha.contains('/') || !listing.siblings.iter().all(safe) {
        return Err(FetchError::UnsafeName { repo: repo.name.clone() });
    }
    Ok(listing)
}

/// Which files to fetch: the one named, else the safetensors with what belongs to them, else the
/// only .gguf file.
fn choose<'a>(repo: &HubRepo, listing: &'a Listing) -> Result<Vec<&'a Sibling>, FetchError> {
    let files = &listing.siblings;
    if let Some(name) = &repo.file {
        let found = files.iter().find(|file| file.rfilename == *name);
        let (repo, file) = (repo.name.clone(), name.clone());
        return Ok(vec![found.ok_or(FetchError::NoSuchFile { repo, file })?]);
    }
    let top = |file: &&Sibling| !file.rfilename.contains('/');
    let weights = |file: &&Sibling| file.rfilename.ends_with(".safetensors");
    let weights: Vec<&Sibling> = files.iter().filter(top).filter(weights).collect();
    let has_config = files.iter().any(|file| file.rfilename == "config.json");
    if has_config && !weights.is_empty() {
        // Some repositories hold the same weights again under another name.
        let usual = |file: &&Sibling| file.rfilename.starts_with("model");
        let usual: Vec<&Sibling> = weights.iter().copied().filter(usual).collect();
        let weights = if usual.is_empty() { weights } else { usual };
        let side = files.iter().filter(|file| SIDE_FILES.contains(&file.rfilename.as_str()));
        return Ok(side.chain(weights).collect());
    }
    let ggufs: Vec<&Sibling> =
        files.iter().filter(|file| file.rfilename.ends_with(".gguf")).collect();
    let name = repo.name.clone();
    match ggufs.len() {
        0 => Err(FetchError::NoWeights { repo: name }),
        1 => Ok(ggufs),
        _ => {
            let uri = |file: &&Sibling| format!("hf://{name}/{}", file.rfilename);
            let choices = ggufs.iter().take(CHOICES_MAX).map(uri).collect();
            Err(FetchError::SeveralFiles { repo: name.clone(), choices })
        }
    }
}

/// Notes that everything of `commit` is here.
fn remember(known: &PathBuf, commit: &str) -> Result<(), FetchError> {
    let failed = |source| FetchError::of_write(known.clone(), source);
    if let Some(directory) = known.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    fs::write(known, commit).map_err(failed)
}

/// What an earlier fetch of `repo` left, if that was complete.
fn earlier(repo: &HubRepo, home: &std::path::Path, known: &PathBuf) -> Option<PathBuf> {
    let commit = fs::read_to_string(known).ok().filter(|commit| is_safe(commit))?;
    let directory = home.join(&commit);
    let path = match &repo.file {
        Some(file) => directory.join(file),
        None if directory.join("config.json").exists() => directory,
        None => {
            let entries = directory.read_dir().ok()?.filter_map(Result::ok);
            let mut paths = entries.map(|entry| entry.path());
            paths.find(|path| path.extension().is_some_and(|extension| extension == "gguf"))?
        }
    };
    let found = path.exists().then_some(path)?;
    tracing::warn!(commit, "the hub cannot be reached: serving what was fetched before");
    Some(found)
}
