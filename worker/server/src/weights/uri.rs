//! What `--model` may say.

use std::path::{Path, PathBuf};
use std::str::FromStr;

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

/// A `--model` that means nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UriError {
    #[error("must not be empty")]
    Empty,
    #[error("`{0}` is no scheme that this worker reads: use a path, file, http, https or hf")]
    Scheme(String),
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

/// Whether a name that somebody else chose stays inside the directory it is put in.
pub(super) fn is_safe(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\\');
    name.split('/').all(part) && !name.contains('\0')
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
    }

    #[test]
    fn what_it_may_not() {
        for text in [
            "",
            "s3://bucket/x",
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
}
