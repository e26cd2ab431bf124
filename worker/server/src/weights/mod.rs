//! Weights: from wherever they are to a path on this machine.
//!
//! ```text
//! uri (what was asked for) → hub, oci, s3 (which files there are) → choice (which of them)
//!   → versions (where they go) → fetch (one file: lock, check, rename)
//!   → download (its pieces, by several connections) → part, journal, spans (what is here)
//! ```
//! `credentials` opens, `digest` checks, `retries` waits, `progress` tells.

mod choice;
mod credentials;
mod digest;
mod download;
mod error;
mod fetch;
mod hub;
mod journal;
mod oci;
mod part;
mod progress;
mod retries;
mod s3;
mod spans;
mod uri;
mod versions;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Client;

use crate::args::Args;
use crate::member::{Bytes, Member};

pub(crate) use error::FetchError;
pub(crate) use progress::Progress;
pub(crate) use uri::ModelUri;

use credentials::{Logins, Wallet};
use fetch::FileRequest;
use retries::Patience;
use s3::S3Settings;

/// Connecting takes no longer, nor does a server that has stopped sending.
const CONNECT_MAX: Duration = Duration::from_secs(15);
const SILENCE_MAX: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("naru-worker/", env!("CARGO_PKG_VERSION"));

/// Where weights come from and go to.
#[derive(Debug, Clone)]
struct Sources {
    cache_dir: PathBuf,
    ca_file: Option<PathBuf>,
    sha256: Option<String>,
    hub_endpoint: String,
    hub_token: Option<String>,
    logins: Logins,
    s3: S3Settings,
    patience: Patience,
}

/// Brings weights here.
pub(crate) struct Fetcher {
    sources: Sources,
    member: Arc<Member>,
}

impl Fetcher {
    /// As the command line and the environment say.
    pub(crate) fn new(args: &Args, member: Arc<Member>) -> Self {
        let wallet = Wallet { directory: args.credentials_dir.clone() };
        let endpoint =
            wallet.get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let sources = Sources {
            cache_dir: args.cache_dir.clone().unwrap_or_else(default_cache_dir),
            ca_file: args.ca_file.clone(),
            sha256: args.sha256.clone(),
            hub_endpoint: endpoint.trim_end_matches('/').to_owned(),
            hub_token: wallet.get("HF_TOKEN"),
            logins: wallet.logins(),
            s3: S3Settings::read(&wallet),
            patience: Patience::default(),
        };
        Self { sources, member }
    }

    /// The path of the weights, once they are all here and are what `--sha256` says.
    pub(crate) async fn obtain(&self, uri: &ModelUri) -> Result<PathBuf, FetchError> {
        let start = Instant::now();
        let (path, is_checked) = match uri {
            ModelUri::Path(path) => (path.clone(), false),
            ModelUri::Http(url) => (self.obtain_url(url).await?, true),
            ModelUri::Hub(repo) => (hub::obtain(&self.client()?, repo, self).await?, false),
            ModelUri::Oci(artifact) => (oci::obtain(&self.client()?, artifact, self).await?, false),
            ModelUri::S3(object) => {
                (s3::obtain(&self.client()?, object, self).await?, !object.is_folder())
            }
        };
        if let Some(expected) = self.sources.sha256.clone().filter(|_| !is_checked) {
            let path = path.clone();
            let check = move || digest::check(&path, &expected);
            tokio::task::spawn_blocking(check).await.map_err(|_| FetchError::Ended)??;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.member.metrics.load_seconds.with_label_values(&["fetch"]).set(seconds);
        Ok(path)
    }

    /// Whether what lies at `path`, obtained for `uri`, was fetched: not a file that others gave,
    /// wherever they keep it.
    pub(crate) fn has_fetched(&self, uri: &ModelUri, path: &Path) -> bool {
        !matches!(uri, ModelUri::Path(_)) && path.starts_with(&self.sources.cache_dir)
    }

    async fn obtain_url(&self, url: &str) -> Result<PathBuf, FetchError> {
        let shown = uri::shown(url);
        let request = FileRequest {
            signed: (shown != url).then(|| url.to_owned()),
            url: shown,
            authorization: None,
            target: self.sources.cache_dir.join("http").join(uri::cache_name(url)),
            sha256: self.sources.sha256.clone(),
            size: None,
            may_differ: true,
        };
        self.obtain_file(&self.client()?, request).await
    }

    /// The path of one file by itself, once it is here.
    async fn obtain_file(
        &self,
        client: &Client,
        request: FileRequest,
    ) -> Result<PathBuf, FetchError> {
        let mut progress = self.follow(0);
        fetch::file(client, &request, &self.sources.patience, &mut progress).await?;
        progress.finish();
        Ok(request.target)
    }

    /// Made only when something has to be fetched: reading the system's certificates takes time.
    fn client(&self) -> Result<Client, FetchError> {
        // Somebody else's provider, installed before, is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_MAX)
            .read_timeout(SILENCE_MAX);
        if let Some(path) = &self.sources.ca_file {
            let pem = read_ca_file(path)?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| {
                let source = std::io::Error::other(error);
                FetchError::CaFile { path: path.clone(), source }
            })?;
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

fn read_ca_file(path: &Path) -> Result<Vec<u8>, FetchError> {
    std::fs::read(path).map_err(|source| FetchError::CaFile { path: path.to_owned(), source })
}

/// `$XDG_CACHE_HOME/naru`, else `~/.cache/naru`, else a directory for temporary files.
fn default_cache_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("naru")
}
