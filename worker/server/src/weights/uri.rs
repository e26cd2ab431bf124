//! What `--model` may say.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_client::Reference;
use sha2::{Digest, Sha256};

use super::digest::hex;

/// Where weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelUri {
    /// Here already.
    Path(PathBuf),
    /// One .gguf file behind `http://` or `https://`.
    Http(String),
    /// In a repository of the Hugging Face hub.
    Hub(HubRepo),
    /// An artifact in a registry of container images.
    Oci(OciArtifact),
    /// In a bucket of a server that speaks as S3 does.
    S3(S3Object),
}

/// `hf://ORG/REPO[@REVISION][/FILE]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubRepo {
    /// `ORG/REPO`
    pub(crate) name: String,
    /// A branch, tag or commit; `main` if none was given.
    pub(crate) revision: String,
    /// One file of it.
    pub(crate) file: Option<String>,
}

/// `oci://REGISTRY/REPOSITORY[:TAG|@DIGEST]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OciArtifact {
    /// A host, with a port where it is not the usual one.
    pub(crate) registry: String,
    pub(crate) repository: String,
    /// All of it, as its client wants it.
    pub(crate) reference: Reference,
}

impl OciArtifact {
    /// As people write it.
    pub(super) fn place(&self) -> String {
        format!("oci://{}", self.reference.whole())
    }

    /// The tag, or the digest, as a file name.
    pub(super) fn version_name(&self) -> String {
        let digest = self.reference.digest().or(self.reference.tag()).unwrap_or("latest");
        digest.replace(':', "-")
    }

    /// A folder for all versions, another for each repository.
    pub(super) fn cache_name(&self) -> String {
        let part = |part: &str| part.replace(['/', ':'], "--");
        format!("{}--{}", part(&self.registry), part(&self.repository))
    }

    pub(super) fn is_on_this_machine(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(&*self.registry, |(host, _)| host);
        host == "localhost" || host.starts_with("127.") || host == "[::1]"
    }
}

/// `s3://BUCKET/KEY.gguf`, or `s3://BUCKET/FOLDER`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Object {
    pub(crate) bucket: String,
    /// Of one object, or of a folder without the slash at its end.
    pub(crate) key: String,
}

impl S3Object {
    pub(super) fn is_folder(&self) -> bool {
        !self.key.ends_with(".gguf")
    }

    /// How the keys in this folder begin.
    pub(super) fn prefix(&self) -> String {
        if self.key.is_empty() { String::new() } else { format!("{}/", self.key) }
    }

    pub(super) fn file_name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or(&self.key)
    }
}

/// A `--model` that means nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UriError {
    #[error("must not be empty")]
    Empty,
    #[error(
        "`{0}` is no scheme that this worker reads: use a path, file, http, https, hf, oci or s3"
    )]
    Scheme(String),
    #[error("`{0}` is not of the form oci://REGISTRY/REPOSITORY[:TAG|@DIGEST], with a host first")]
    Oci(String),
    #[error("`{0}` is not of the form s3://BUCKET/KEY.gguf or s3://BUCKET/FOLDER")]
    S3(String),
    #[error("`{0}` is not of the form hf://ORG/REPO[@REVISION][/FILE.gguf]")]
    Hub(String),
    #[error("`{0}` does not name a .gguf file; for a directory of safetensors use a path or hf")]
    NotGguf(String),
    #[error("`{0}` does not name an absolute path: write file:///PATH")]
    File(String),
}

impl FromStr for ModelUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.is_empty() {
            return Err(UriError::Empty);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Path(PathBuf::from(text)));
        };
        match scheme {
            "file" if rest.starts_with('/') => Ok(Self::Path(PathBuf::from(rest))),
            "file" => Err(UriError::File(text.to_owned())),
            "http" | "https" => {
                let path = rest.split(['?', '#']).next().unwrap_or(rest);
                match path.ends_with(".gguf") {
                    true => Ok(Self::Http(text.to_owned())),
                    false => Err(UriError::NotGguf(text.to_owned())),
                }
            }
            "hf" => parse_hub(rest).map(Self::Hub).ok_or_else(|| UriError::Hub(text.to_owned())),
            "oci" => parse_oci(rest).map(Self::Oci).ok_or_else(|| UriError::Oci(text.to_owned())),
            "s3" => parse_s3(rest).map(Self::S3).ok_or_else(|| UriError::S3(text.to_owned())),
            _ => Err(UriError::Scheme(scheme.to_owned())),
        }
    }
}

fn parse_hub(rest: &str) -> Option<HubRepo> {
    let mut parts = rest.splitn(3, '/');
    let organisation = parts.next()?;
    let repository = parts.next()?;
    let file = parts.next();
    let (repository, revision) = repository.split_once('@').unwrap_or((repository, "main"));
    let plain = |word: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !word.is_empty() && !word.starts_with('.') && word.chars().all(allowed)
    };
    let well_formed = plain(organisation)
        && plain(repository)
        && plain(revision)
        && file.is_none_or(|file| is_safe(file) && file.ends_with(".gguf"));
    well_formed.then(|| HubRepo {
        name: format!("{organisation}/{repository}"),
        revision: revision.to_owned(),
        file: file.map(str::to_owned),
    })
}

fn parse_oci(rest: &str) -> Option<OciArtifact> {
    let (registry, _) = rest.split_once('/')?;
    // Without a host an image would be one of Docker's hub, which nobody has asked.
    let is_host = registry.contains(['.', ':']) || registry == "localhost";
    let reference: Reference = rest.parse().ok().filter(|_| is_host)?;
    let repository = reference.repository().to_owned();
    (reference.registry() == registry).then(|| OciArtifact {
        registry: registry.to_owned(),
        repository,
        reference,
    })
}

fn parse_s3(rest: &str) -> Option<S3Object> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let key = key.strip_suffix('/').unwrap_or(key);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket.chars().all(allowed)
        && !bucket.starts_with('.')
        && !bucket.contains("..");
    let is_key = key.is_empty() || is_safe(key);
    (is_bucket && is_key).then(|| S3Object { bucket: bucket.to_owned(), key: key.to_owned() })
}

/// `url` without what may be a secret in it: a name with a password, and what follows a `?`.
pub(super) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}/{path}")
}

/// Whether a name that somebody else chose stays inside the directory it is put in.
pub(super) fn is_safe(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\\');
    name.split('/').all(part) && !name.contains('\0')
}

/// Whether a file, or a folder on the way to it, has a name that begins with one dot.
pub(super) fn is_hidden(name: &str) -> bool {
    let mut parts = name.split('/');
    parts.any(|part| part.len() > 1 && part.starts_with('.') && part != "..")
}

/// A name for the file behind `url` in the cache, another for each URL.
pub(super) fn cache_name(url: &str) -> PathBuf {
    let digest = hex(&Sha256::digest(url.as_bytes()));
    let file = file_name(url);
    let file = if is_safe(file) { file } else { "model.gguf" };
    Path::new(&digest[..16]).join(file)
}

fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or(path)
}

impl ModelUri {
    /// The served name if none was given: of a file its name, of a repository the whole name.
    pub(crate) fn default_name(&self) -> String {
        let name = match self {
            Self::Path(path) => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                absolute.file_name().map(|name| name.to_string_lossy().into_owned())
            }
            Self::Http(url) => Some(file_name(url).to_owned()),
            Self::Hub(HubRepo { file: Some(file), .. }) => Some(file_name(file).to_owned()),
            Self::Hub(repo) => Some(repo.name.clone()),
            Self::Oci(artifact) => Some(artifact.repository.clone()),
            Self::S3(object) if object.key.is_empty() => Some(object.bucket.clone()),
            Self::S3(object) => Some(object.file_name().to_owned()),
        };
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| "model".to_owned());
        name.strip_suffix(".gguf").map(str::to_owned).unwrap_or(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_may_be_called() {
        #[track_caller]
        fn check(text: &str, expected: ModelUri, name: &str) {
            let uri: ModelUri = text.parse().expect(text);
            assert_eq!(uri, expected, "{text}");
            assert_eq!(uri.default_name(), name, "{text}");
        }
        let hub = |name: &str, revision: &str, file: Option<&str>| {
            let (name, revision) = (name.to_owned(), revision.to_owned());
            ModelUri::Hub(HubRepo { name, revision, file: file.map(str::to_owned) })
        };
        check("./a/b.gguf", ModelUri::Path("./a/b.gguf".into()), "b");
        check("file:///a/b", ModelUri::Path("/a/b".into()), "b");
        let url = "https://h/x/m.gguf?sig=1/2";
        check(url, ModelUri::Http(url.into()), "m");
        check("hf://a/b", hub("a/b", "main", None), "a/b");
        check("hf://a/b.5@v1.0", hub("a/b.5", "v1.0", None), "a/b.5");
        check("hf://a/b@x/q/m.gguf", hub("a/b", "x", Some("q/m.gguf")), "m");
        let s3 = |bucket: &str, key: &str| {
            ModelUri::S3(S3Object { bucket: bucket.to_owned(), key: key.to_owned() })
        };
        check("s3://bucket/a/m.gguf", s3("bucket", "a/m.gguf"), "m");
        check("s3://bucket/a/b/", s3("bucket", "a/b"), "b");
        check("s3://my.bucket", s3("my.bucket", ""), "my.bucket");
        let oci = |registry: &str, repository: &str, text: &str| {
            let (registry, repository) = (registry.to_owned(), repository.to_owned());
            let reference = text.parse().expect(text);
            ModelUri::Oci(OciArtifact { registry, repository, reference })
        };
        let text = "r.example:5000/llm/smol:v1";
        check(&format!("oci://{text}"), oci("r.example:5000", "llm/smol", text), "llm/smol");
        let text = format!("r.example/smol@sha256:{}", "a".repeat(64));
        check(&format!("oci://{text}"), oci("r.example", "smol", &text), "smol");
    }

    #[test]
    fn what_it_may_not() {
        for text in [
            "",
            "pvc://claim/x",
            "s3://",
            "s3://b",
            "s3://bucket//x",
            "s3://bucket/../x.gguf",
            "oci://library/x:v1",
            "oci://r.example",
            "oci://r.example/UPPER",
            "file://relative",
            "https://h/config.json",
            "hf://a",
            "hf://a/",
            "hf://../b",
            "hf://a/b/../../c.gguf",
            "hf://a/b/c.bin",
            "hf://a/b@/c.gguf",
        ] {
            text.parse::<ModelUri>().expect_err(text);
        }
    }

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        #[track_caller]
        fn check(url: &str, expected: &str) {
            assert_eq!(shown(url), expected);
        }
        check("https://h/a/m.gguf?sig=s#f", "https://h/a/m.gguf");
        check("https://me:pass@h:1/m.gguf", "https://h:1/m.gguf");
        check("http://h/a@b/m.gguf", "http://h/a@b/m.gguf");
    }
}
