//! Weights: from wherever they are to a path on this machine.
//!
//! `uri` (what was asked for) → `hub` (which files that is) → `fetch` (each file: lock, resume,
//! check, rename) → a path for the engine. `digest` checks, `progress` tells.

mod digest;
mod error;
mod fetch;
mod hub;
mod progress;
mod uri;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Client;

use crate::args::Args;
use crate::member::{Bytes, Member};

pub(crate) use error::FetchError;
pub(crate) use progress::Progress;
pub(crate) use uri::ModelUri;

use fetch::{FileRequest, Patience};

/// Connecting takes no longer, nor does a server that has stopped sending.
const CONNECT_MAX: Duration = Duration::from_secs(15);
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Where weights come from and go to.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) cache_dir: PathBuf,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) sha256: Option<String>,
    pub(crate) hub_endpoint: String,
    pub(crate) hub_token: Option<String>,
    pub(crate) patience: Patience,
}

/// Brings weights here.
pub(crate) struct Fetcher {
    sources: Sources,
    member: Arc<Member>,
}

impl Fetcher {
    /// As the command line and the environment say.
    pub(crate) fn new(args: &Args, member: Arc<Member>) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint =
            variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let sources = Sources {
            cache_dir: args.cache_dir.clone().unwrap_or_else(default_cache_dir),
            ca_file: args.ca_file.clone(),
            sha256: args.sha256.clone(),
            hub_endpoint: endpoint.trim_end_matches('/').to_owned(),
            hub_token: variable("HF_TOKEN"),
            patience: Patience::default(),
        };
        Self { sources, member }
    }

    /// The path of the weights, once they are all here and are what `--sha256` says.
    pub(crate) async fn obtain(&self, uri: &ModelUri) -> Result<PathBuf, FetchError> {
        let start = Instant::now();
        let path = match uri {
            ModelUri::Path(path) => path.clone(),
            ModelUri::Http(url) => self.obtain_url(url).await?,
            ModelUri::Hub(repo) => hub::obtain(&self.sources, &self.client()?, repo, self).await?,
        };
        if let Some(expected) = self.sources.sha256.clone() {
            let path = path.clone();
            let check = move || digest::check(&path, &expected);
            tokio::task::spawn_blocking(check).await.map_err(|_| FetchError::Ended)??;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.member.metrics.load_seconds.with_label_values(&["fetch"]).set(seconds);
        Ok(path)
    }

    async fn obtain_url(&self, url: &str) -> Result<PathBuf, FetchError> {
        let target = self.sources.cache_dir.join("http").join(uri::cache_name(url));
        let request = FileRequest {
            url: url.to_owned(),
            token: None,
            target: target.clone(),
            sha256: self.sources.sha256.clone(),
            size: None,
        };
        let mut progress = self.follow(0);
        let client = self.client()?;
        fetch::file(&client, &request, &self.sources.patience, &mut progress).await?;
        progress.finish();
        Ok(target)
    }

    /// Made only when something has to be fetched: reading the system's certificates takes time.
    fn client(&self) -> Result<Client, FetchError> {
        // Somebody else's provider, installed before, is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("naru-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_MAX)
            .read_timeout(SILENCE_MAX);
        if let Some(path) = &self.sources.ca_file {
            let failed = |source| FetchError::CaFile { path: path.clone(), source };
            let pem = std::fs::read(path).map_err(failed)?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| failed(std::io::Error::other(error)))?;
            builder = builder.tls_certs_merge(certificates);
        }
        builder.build().map_err(|source| FetchError::Client { source })
    }

    /// Progress of a fetch of `total` bytes (0: not known), shown and kept for the status.
    fn follow(&self, total: u64) -> FetchProgress {
        let shown = Progress::start("fetch", total);
        FetchProgress { shown, member: Arc::clone(&self.member), bytes: Bytes { done: 0, total } }
    }
}

/// How far a fetch, of one or more files, is.
pub(crate) struct FetchProgress {
    shown: Progress,
    member: Arc<Member>,
    bytes: Bytes,
}

impl FetchProgress {
    /// Takes the size of a file, if it was not known before.
    fn learn_total(&mut self, total: u64) {
        if self.bytes.total == 0 {
            self.bytes.total = total;
            self.shown.set_total(total);
        }
    }

    fn add(&mut self, bytes: u64) {
        self.set(self.bytes.done + bytes);
    }

    fn set(&mut self, done: u64) {
        self.bytes.done = done;
        self.shown.at(done);
        self.member.fetched(self.bytes);
    }

    fn done(&self) -> u64 {
        self.bytes.done
    }

    fn finish(self) {
        self.shown.finish();
    }
}

/// `$XDG_CACHE_HOME/naru`, else `~/.cache/naru`, else a directory for temporary files.
fn default_cache_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("naru")
}
