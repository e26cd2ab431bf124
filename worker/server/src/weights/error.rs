//! What can go wrong on the way, and what to do about it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use naru_protocol::worker::v1::WeightsFault;
use reqwest::StatusCode;

/// Weights that are not here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("reading the certificates in {path}")]
    CaFile { path: PathBuf, source: io::Error },
    #[error("making an HTTP client")]
    Client { source: reqwest::Error },
    #[error(
        "fetching {url}: the name of the host is not known; check the address and the DNS, or set \
         HTTPS_PROXY"
    )]
    Name { url: String, source: reqwest::Error },
    #[error(
        "fetching {url}: the host refuses connections; check address and port, or set HTTPS_PROXY"
    )]
    Refused { url: String, source: reqwest::Error },
    #[error(
        "fetching {url}: its certificate is not trusted; give the certificate authority with \
         --ca-file or SSL_CERT_FILE"
    )]
    Certificate { url: String, source: reqwest::Error },
    #[error("fetching {url}: the network failed; try again, what has come is kept")]
    Network { url: String, source: reqwest::Error },
    #[error(
        "fetching {url}: 401, a token or login is needed; set HF_TOKEN for a hub, give \
         --credentials-dir with a login for a registry"
    )]
    Unauthorized { url: String },
    #[error(
        "fetching {url}: 403, not allowed; give a token or keys that may read it, or accept the \
         licence on the model's page"
    )]
    Forbidden { url: String },
    #[error("fetching {url}: 404, no such file; check its name and the revision")]
    NotFound { url: String },
    #[error("fetching {url}: the server answered {status}; {}", after(*status))]
    Status { url: String, status: StatusCode },
    #[error("fetching {url}: the server sent {actual} bytes of {expected}; try again")]
    Short { url: String, expected: u64, actual: u64 },
    #[error(
        "fetching {url}: the server has {actual} bytes of a file of {expected}; upload it again"
    )]
    WrongSize { url: String, expected: u64, actual: u64 },
    #[error("fetching {url}: the file changes while it is fetched; try again when it rests")]
    Changing { url: String },
    #[error("the server {endpoint} cannot be used: {reason}")]
    Endpoint { endpoint: String, reason: String },
    #[error(
        "the disk of {path} is full{}; free some space or set --cache-dir", room(*needed)
    )]
    DiskFull { path: PathBuf, needed: Option<u64>, source: io::Error },
    #[error("writing {path}; check its permissions or set --cache-dir")]
    Write { path: PathBuf, source: io::Error },
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} has the SHA-256 {actual}, not {expected}; if it was fetched it was deleted: check \
         the digest and the address"
    )]
    WrongDigest { path: PathBuf, expected: String, actual: String },
    #[error("reading the list of files at {url}: is it a Hugging Face hub? check HF_ENDPOINT")]
    Listing { url: String, source: serde_json::Error },
    #[error("{place} has no .gguf file and no .safetensors with a config.json")]
    NoWeights { place: String },
    #[error("{place} has several .gguf files; name one: {}", choices.join(", "))]
    SeveralFiles { place: String, choices: Vec<String> },
    #[error("{place} has no file {file}")]
    NoSuchFile { place: String, file: String },
    #[error("{place} has more than {most} files; name the folder of one model")]
    TooManyFiles { place: String, most: usize },
    #[error("{place} lists a file with an unsafe name")]
    UnsafeName { place: String },
    #[error("{place} has {name} as a packed directory; push its files one by one")]
    PackedDirectory { place: String, name: String },
    #[error("the process is ending")]
    Ended,
}

impl FetchError {
    /// What `source`, an error without an answer, means.
    pub(super) fn of_network(url: &str, source: reqwest::Error) -> Self {
        let url = url.to_owned();
        let text = causes(&source);
        if text.contains("dns error") || text.contains("failed to lookup") {
            return Self::Name { url, source };
        }
        if text.contains("certificate") {
            return Self::Certificate { url, source };
        }
        if is_refused(&source) {
            return Self::Refused { url, source };
        }
        Self::Network { url, source }
    }

    /// What an answer that is no success means.
    pub(super) fn of_status(url: &str, status: StatusCode) -> Self {
        let url = url.to_owned();
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized { url },
            StatusCode::FORBIDDEN => Self::Forbidden { url },
            StatusCode::NOT_FOUND => Self::NotFound { url },
            _ => Self::Status { url, status },
        }
    }

    /// What a failed write to `path` means.
    pub(super) fn of_write(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, needed: None, source }
            }
            _ => Self::Write { path, source },
        }
    }

    /// What of weights is wrong, so that others can say what to do about it.
    pub(crate) fn fault(&self) -> WeightsFault {
        match self {
            Self::Unauthorized { .. } | Self::Forbidden { .. } => WeightsFault::Unauthorized,
            Self::WrongDigest { .. } | Self::WrongSize { .. } => WeightsFault::Corrupt,
            Self::DiskFull { .. } => WeightsFault::NoSpace,
            Self::CaFile { .. }
            | Self::Client { .. }
            | Self::Name { .. }
            | Self::Refused { .. }
            | Self::Certificate { .. }
            | Self::Network { .. }
            | Self::Status { .. }
            | Self::Short { .. }
            | Self::Changing { .. }
            | Self::Endpoint { .. }
            | Self::Listing { .. } => WeightsFault::Unreachable,
            Self::NotFound { .. }
            | Self::Write { .. }
            | Self::Read { .. }
            | Self::NoWeights { .. }
            | Self::SeveralFiles { .. }
            | Self::NoSuchFile { .. }
            | Self::TooManyFiles { .. }
            | Self::UnsafeName { .. }
            | Self::PackedDirectory { .. } => WeightsFault::Missing,
            Self::Ended => WeightsFault::Unspecified,
        }
    }

    /// Whether another attempt may go better.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Name { .. }
            | Self::Refused { .. }
            | Self::Network { .. }
            | Self::Short { .. } => true,
            Self::Status { status, .. } => is_passing(*status),
            _ => false,
        }
    }
}

/// What to do after an answer that is no success.
fn after(status: StatusCode) -> &'static str {
    if is_passing(status) { "try again later" } else { "check the address, and for S3 the region" }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

fn room(needed: Option<u64>) -> String {
    needed.map_or(String::new(), |bytes| format!(" ({bytes} bytes are needed)"))
}

fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    std::iter::from_fn(move || {
        let current = next?;
        next = current.source();
        Some(current)
    })
}

fn causes(error: &reqwest::Error) -> String {
    chain(error).map(|cause| cause.to_string().to_lowercase()).collect::<Vec<_>>().join("; ")
}

fn is_refused(error: &reqwest::Error) -> bool {
    chain(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}
