//! Repositories of the Hugging Face hub: which files there are, and where they go.

use std::path::PathBuf;

use reqwest::Client;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;

use super::choice::{RemoteFile, choose};
use super::credentials::bearer;
use super::error::FetchError;
use super::fetch::FileRequest;
use super::retries::patiently;
use super::uri::{HubRepo, is_hidden, is_safe};
use super::versions::Versions;
use super::{Fetcher, Sources};

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

impl From<Sibling> for RemoteFile {
    fn from(sibling: Sibling) -> Self {
        let Sibling { rfilename: name, size, lfs } = sibling;
        let bytes = lfs.as_ref().map(|file| file.size).or(size);
        Self { name, bytes, sha256: lfs.map(|file| file.sha256) }
    }
}

/// The path of `repo`'s weights in the cache, fetched as far as they are not there: a .gguf file,
/// or a directory.
pub(super) async fn obtain(
    client: &Client,
    repo: &HubRepo,
    fetcher: &Fetcher,
) -> Result<PathBuf, FetchError> {
    let Sources { cache_dir, hub_endpoint, hub_token, .. } = &fetcher.sources;
    let versions = Versions {
        home: cache_dir.join("hub").join(repo.name.replace('/', "--")),
        name: repo.revision.clone(),
        file: repo.file.clone(),
    };
    let list = || list(&fetcher.sources, client, repo);
    let (commit, files) = match patiently(&fetcher.sources.patience, list).await {
        Ok(listing) => listing,
        Err(error) => return versions.in_place_of(error),
    };
    let chosen = choose(&format!("hf://{}", repo.name), repo.file.as_deref(), &files)?;
    let request = |file: &RemoteFile, target| FileRequest {
        url: format!("{hub_endpoint}/{}/resolve/{commit}/{}", repo.name, file.name),
        signed: None,
        authorization: hub_token.as_deref().map(bearer),
        target,
        sha256: file.sha256.clone(),
        size: file.bytes,
        may_differ: false,
    };
    versions.complete(&commit, &chosen, fetcher, client, request).await
}

/// The commit, and its files.
async fn list(
    sources: &Sources,
    client: &Client,
    repo: &HubRepo,
) -> Result<(String, Vec<RemoteFile>), FetchError> {
    let Sources { hub_endpoint, hub_token, .. } = sources;
    let HubRepo { name, revision, .. } = repo;
    let url = format!("{hub_endpoint}/api/models/{name}/revision/{revision}?blobs=true");
    let mut builder = client.get(&url);
    if let Some(token) = hub_token {
        builder = builder.header(AUTHORIZATION, bearer(token));
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
    let Listing { sha, mut siblings } = listing;
    // Of no use to us, and some are in every repository: .gitattributes.
    siblings.retain(|file| !is_hidden(&file.rfilename));
    let safe = |file: &Sibling| is_safe(&file.rfilename);
    if !is_safe(&sha) || sha.contains('/') || !siblings.iter().all(safe) {
        return Err(FetchError::UnsafeName { place: format!("hf://{name}") });
    }
    Ok((sha, siblings.into_iter().map(RemoteFile::from).collect()))
}
