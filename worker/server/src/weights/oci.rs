//! Artifacts in registries of container images, as `oras push` makes them: each layer is a file,
//! as it is, and its annotation `org.opencontainers.image.title` the file's name.

use std::path::PathBuf;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::HeaderValue;
use reqwest::{Client, StatusCode};
use tokio::time::Instant;

use super::choice::{RemoteFile, choose};
use super::credentials::{Login, basic, bearer};
use super::error::FetchError;
use super::fetch::FileRequest;
use super::retries::patiently;
use super::uri::{OciArtifact, is_safe};
use super::versions::Versions;
use super::{CONNECT_MAX, Fetcher, SILENCE_MAX, USER_AGENT, read_ca_file};

const TITLE: &str = "org.opencontainers.image.title";
/// Set by `oras push` on a layer that is a packed directory.
const UNPACK: &str = "io.deis.oras.content.unpack";
/// A token that a registry turns away is worth another only if it had some time to expire.
const TOKEN_AGE_MIN: Duration = Duration::from_secs(30);

/// The path of the artifact's weights in the cache: a .gguf file, or a directory.
pub(super) async fn obtain(
    client: &Client,
    artifact: &OciArtifact,
    fetcher: &Fetcher,
) -> Result<PathBuf, FetchError> {
    let registry = Registry::new(artifact, fetcher)?;
    let versions = Versions {
        home: fetcher.sources.cache_dir.join("oci").join(artifact.cache_name()),
        name: artifact.version_name(),
        file: None,
    };
    let list = || registry.list();
    let (digest, files) = match patiently(&fetcher.sources.patience, list).await {
        Ok(listing) => listing,
        Err(error) => return versions.in_place_of(error),
    };
    let chosen = choose(&artifact.place(), None, &files)?;
    let version = digest.replace(':', "-");
    loop {
        let authorization = registry.authorize().await?;
        let start = Instant::now();
        let request = |file: &RemoteFile, target| FileRequest {
            url: registry.url_of(file),
            signed: None,
            authorization: authorization.clone(),
            target,
            sha256: file.sha256.clone(),
            size: file.bytes,
            may_differ: false,
        };
        let fetched = versions.complete(&version, &chosen, fetcher, client, request).await;
        // Tokens of registries are short-lived, and files are long.
        let is_old = start.elapsed() > TOKEN_AGE_MIN;
        match fetched {
            Err(FetchError::Unauthorized { .. }) if is_old => {}
            fetched => return fetched,
        }
    }
}

struct Registry {
    client: oci_client::Client,
    artifact: OciArtifact,
    reference: Reference,
    login: Option<Login>,
    base: String,
}

impl Registry {
    fn new(artifact: &OciArtifact, fetcher: &Fetcher) -> Result<Self, FetchError> {
        let host = &artifact.registry;
        let mut trusted = Vec::new();
        if let Some(path) = &fetcher.sources.ca_file {
            let (encoding, data) = (CertificateEncoding::Pem, read_ca_file(path)?);
            trusted.push(Certificate { encoding, data });
        }
        // As docker does: what never leaves the machine needs no TLS.
        let is_plain = artifact.is_on_this_machine();
        let protocol = if is_plain { ClientProtocol::Http } else { ClientProtocol::Https };
        let scheme = if is_plain { "http" } else { "https" };
        let config = ClientConfig {
            protocol,
            extra_root_certificates: trusted,
            connect_timeout: Some(CONNECT_MAX),
            read_timeout: Some(SILENCE_MAX),
            user_agent: USER_AGENT,
            platform_resolver: None,
            ..ClientConfig::default()
        };
        let address = artifact.reference.resolve_registry();
        let base = format!("{scheme}://{address}/v2/{}", artifact.repository);
        let failed = |error| registry_error(&base, error);
        Ok(Self {
            client: oci_client::Client::try_from(config).map_err(failed)?,
            reference: artifact.reference.clone(),
            login: fetcher.sources.logins.of(host).cloned(),
            artifact: artifact.clone(),
            base,
        })
    }

    fn auth(&self) -> RegistryAuth {
        match &self.login {
            Some(Login { name, password }) => RegistryAuth::Basic(name.clone(), password.clone()),
            None => RegistryAuth::Anonymous,
        }
    }

    /// What to show with requests for blobs; `None`: nothing is asked for.
    async fn authorize(&self) -> Result<Option<HeaderValue>, FetchError> {
        let token = self.client.auth(&self.reference, &self.auth(), RegistryOperation::Pull).await;
        let token = token.map_err(|error| registry_error(&self.base, error))?;
        let of_login = || self.login.as_ref().map(basic);
        Ok(token.as_deref().map(bearer).or_else(of_login))
    }

    fn url_of(&self, file: &RemoteFile) -> String {
        format!("{}/blobs/sha256:{}", self.base, file.sha256.as_deref().unwrap_or_default())
    }

    /// The digest of the manifest, and the files it lists.
    async fn list(&self) -> Result<(String, Vec<RemoteFile>), FetchError> {
        let pulled = self.client.pull_image_manifest(&self.reference, &self.auth()).await;
        let (manifest, digest) = pulled.map_err(|error| registry_error(&self.base, error))?;
        let OciImageManifest { layers, .. } = manifest;
        let files: Result<Vec<_>, _> = layers.into_iter().filter_map(|l| self.file(l)).collect();
        Ok((digest, files?))
    }

    /// The file that a layer is; `None`: it is none.
    fn file(&self, layer: OciDescriptor) -> Option<Result<RemoteFile, FetchError>> {
        let annotations = layer.annotations.unwrap_or_default();
        let name = annotations.get(TITLE)?.clone();
        let place = self.artifact.place();
        if annotations.get(UNPACK).is_some_and(|unpack| unpack == "true") {
            return Some(Err(FetchError::PackedDirectory { place, name }));
        }
        let sha256 = layer.digest.strip_prefix("sha256:").map(str::to_owned);
        if !is_safe(&name) || sha256.as_deref().is_none_or(|sha256| !is_sha256(sha256)) {
            return Some(Err(FetchError::UnsafeName { place }));
        }
        let bytes = u64::try_from(layer.size).ok();
        Some(Ok(RemoteFile { name, bytes, sha256 }))
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a registry's refusal means.
fn registry_error(url: &str, error: OciDistributionError) -> FetchError {
    let status = |status| FetchError::of_status(url, status);
    match error {
        OciDistributionError::RequestError(source) => {
            FetchError::of_network(url, source.without_url())
        }
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => status(StatusCode::UNAUTHORIZED),
        OciDistributionError::ImageManifestNotFoundError(_) => status(StatusCode::NOT_FOUND),
        OciDistributionError::ServerError { code, .. } => {
            status(StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY))
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let first = envelope.errors.first().map(|error| &error.code);
            status(match first {
                Some(OciErrorCode::Unauthorized) => StatusCode::UNAUTHORIZED,
                Some(OciErrorCode::Denied) => StatusCode::FORBIDDEN,
                Some(OciErrorCode::Toomanyrequests) => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::NOT_FOUND,
            })
        }
        error => {
            let reason = error.to_string();
            FetchError::Endpoint { endpoint: url.to_owned(), reason }
        }
    }
}
