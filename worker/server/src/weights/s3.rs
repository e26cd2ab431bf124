//! Buckets of S3 and of servers that speak as S3 does.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, Url};
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use sha2::{Digest, Sha256};

use super::choice::{RemoteFile, choose};
use super::credentials::Wallet;
use super::digest::hex;
use super::error::FetchError;
use super::fetch::FileRequest;
use super::retries::patiently;
use super::uri::{S3Object, is_safe};
use super::versions::Versions;
use super::{Fetcher, Sources};

/// How long a signed address opens its object: longer than the longest fetch.
const SIGNED_FOR: Duration = Duration::from_hours(24);
/// Objects in a folder of weights; with more it is the wrong folder.
const OBJECTS_MAX: usize = 10_000;

/// Which server, and who one is there.
#[derive(Debug, Clone)]
pub(crate) struct S3Settings {
    /// `None`: Amazon's, in the region.
    pub(super) endpoint: Option<String>,
    pub(super) region: String,
    /// `BUCKET.HOST/KEY` and not `HOST/BUCKET/KEY`.
    pub(super) virtual_host: bool,
    /// `None`: nobody in particular.
    pub(super) credentials: Option<Credentials>,
}

impl S3Settings {
    /// As the variables say that the tools of S3 know.
    pub(super) fn read(wallet: &Wallet) -> Self {
        let endpoint = wallet.get("AWS_ENDPOINT_URL_S3").or_else(|| wallet.get("AWS_ENDPOINT_URL"));
        let region = wallet.get("AWS_REGION").or_else(|| wallet.get("AWS_DEFAULT_REGION"));
        let style = wallet.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST");
        let pair = wallet.get("AWS_ACCESS_KEY_ID").zip(wallet.get("AWS_SECRET_ACCESS_KEY"));
        let credentials = pair.map(|(key, secret)| match wallet.get("AWS_SESSION_TOKEN") {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        });
        Self {
            virtual_host: style.map_or(endpoint.is_none(), |style| style == "true"),
            endpoint,
            region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            credentials,
        }
    }

    fn bucket(&self, name: &str) -> Result<Bucket, FetchError> {
        let region = &self.region;
        let amazon = || format!("https://s3.{region}.amazonaws.com");
        let endpoint = self.endpoint.clone().unwrap_or_else(amazon);
        let wrong = |reason: String| FetchError::Endpoint { endpoint: endpoint.clone(), reason };
        let url: Url = endpoint.parse().map_err(|error| wrong(format!("{error}")))?;
        // No certificate is for a name with further dots in front.
        let style = match self.virtual_host && !name.contains('.') {
            true => UrlStyle::VirtualHost,
            false => UrlStyle::Path,
        };
        let bucket = Bucket::new(url, style, name.to_owned(), region.clone());
        bucket.map_err(|error| wrong(format!("{error}")))
    }
}

/// The path of the weights in the cache: of one object a file, of a folder a file or a directory.
pub(super) async fn obtain(
    client: &Client,
    object: &S3Object,
    fetcher: &Fetcher,
) -> Result<PathBuf, FetchError> {
    let Sources { cache_dir, s3, sha256, .. } = &fetcher.sources;
    let bucket = s3.bucket(&object.bucket)?;
    let home = Sha256::digest(format!("{}{}", bucket.base_url(), object.key));
    let home = cache_dir.join("s3").join(&hex(&home)[..16]);
    let ask = |key: &str, target: PathBuf| FileRequest {
        url: bucket.object_url(key).to_string(),
        signed: Some(bucket.get_object(s3.credentials.as_ref(), key).sign(SIGNED_FOR).to_string()),
        authorization: None,
        target,
        sha256: None,
        size: None,
        may_differ: false,
    };
    if !object.is_folder() {
        let target = home.join(object.file_name());
        let request = ask(&object.key, target);
        let request = FileRequest { sha256: sha256.clone(), may_differ: true, ..request };
        return fetcher.obtain_file(client, request).await;
    }
    let versions = Versions { home, name: "newest".to_owned(), file: None };
    let list = || list(s3, client, &bucket, object);
    let files = match patiently(&fetcher.sources.patience, list).await {
        Ok(files) => files,
        Err(error) => return versions.in_place_of(error),
    };
    let version = version(&files);
    let files: Vec<RemoteFile> = files.into_iter().map(|object| object.file).collect();
    let chosen = choose(&format!("s3://{}/{}", object.bucket, object.key), None, &files)?;
    let request = |file: &RemoteFile, target| {
        let request = ask(&format!("{}{}", object.prefix(), file.name), target);
        FileRequest { size: file.bytes, ..request }
    };
    versions.complete(&version, &chosen, fetcher, client, request).await
}

/// An object of a listing, by its path in the folder.
struct Listed {
    file: RemoteFile,
    tag: String,
}

/// A name for what is in a folder, another for other content.
fn version(files: &[Listed]) -> String {
    let line = |Listed { file, tag }: &Listed| format!("{} {:?} {tag}\n", file.name, file.bytes);
    let mut lines: Vec<String> = files.iter().map(line).collect();
    lines.sort();
    hex(&Sha256::digest(lines.concat()))[..16].to_owned()
}

async fn list(
    settings: &S3Settings,
    client: &Client,
    bucket: &Bucket,
    object: &S3Object,
) -> Result<Vec<Listed>, FetchError> {
    let place = format!("s3://{}/{}", object.bucket, object.key);
    let prefix = object.prefix();
    let mut files = Vec::new();
    let mut more: Option<String> = None;
    loop {
        let mut action = bucket.list_objects_v2(settings.credentials.as_ref());
        action.with_prefix(prefix.as_str());
        if let Some(token) = more {
            action.with_continuation_token(token);
        }
        let text = get(client, bucket, action.sign(SIGNED_FOR)).await?;
        let page = ListObjectsV2::parse_response(&text).map_err(|error| FetchError::Endpoint {
            endpoint: bucket.base_url().to_string(),
            reason: format!("its list of objects cannot be read: {error}"),
        })?;
        for content in page.contents {
            let Some(name) = content.key.strip_prefix(&prefix) else { continue };
            if name.is_empty() || name.ends_with('/') {
                continue; // stands for a folder
            }
            if !is_safe(name) {
                return Err(FetchError::UnsafeName { place });
            }
            let file = RemoteFile { name: name.to_owned(), bytes: content.size, sha256: None };
            files.push(Listed { file, tag: content.etag.unwrap_or_default() });
        }
        if files.len() > OBJECTS_MAX {
            return Err(FetchError::TooManyFiles { place, most: OBJECTS_MAX });
        }
        more = page.next_continuation_token;
        if more.is_none() {
            return Ok(files);
        }
    }
}

async fn get(client: &Client, bucket: &Bucket, signed: Url) -> Result<String, FetchError> {
    let url = bucket.base_url().to_string();
    let failed = |source: reqwest::Error| FetchError::of_network(&url, source.without_url());
    let response = client.get(signed).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(FetchError::of_status(&url, response.status()));
    }
    response.text().await.map_err(failed)
}
