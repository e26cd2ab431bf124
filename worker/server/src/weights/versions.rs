//! Where files go that belong together: a folder for each version, complete or not, and a note of
//! which version was complete under a name.
//!
//! ```text
//! HOME/refs/NAME → VERSION      HOME/VERSION/…files
//! ```

use std::fs;
use std::path::PathBuf;

use reqwest::Client;

use super::choice::RemoteFile;
use super::error::FetchError;
use super::fetch::{self, FileRequest};
use super::uri::is_safe;
use super::{Fetcher, Sources};

/// The versions of one repository in the cache.
#[derive(Debug, Clone)]
pub(super) struct Versions {
    /// Of all of them.
    pub(super) home: PathBuf,
    /// A branch, a tag, …: what was asked for.
    pub(super) name: String,
    /// One file of it, if one was asked for.
    pub(super) file: Option<String>,
}

impl Versions {
    /// What was fetched completely before: it serves while the network does not.
    pub(super) fn in_place_of(&self, error: FetchError) -> Result<PathBuf, FetchError> {
        if error.is_transient() { self.earlier().ok_or(error) } else { Err(error) }
    }

    fn earlier(&self) -> Option<PathBuf> {
        let version = fs::read_to_string(self.known()).ok().filter(|version| is_safe(version))?;
        let directory = self.home.join(&version);
        let path = match &self.file {
            Some(file) => directory.join(file),
            None if directory.join("config.json").exists() => directory,
            None => {
                let entries = directory.read_dir().ok()?.filter_map(Result::ok);
                let mut paths = entries.map(|entry| entry.path());
                paths.find(|path| path.extension().is_some_and(|extension| extension == "gguf"))?
            }
        };
        let found = path.exists().then_some(path)?;
        tracing::warn!(version, "nobody says what there is: serving what was fetched before");
        Some(found)
    }

    /// The path of the weights of `version`, once `chosen` are all there: a .gguf file, or a
    /// directory. `request` says how each is asked for.
    pub(super) async fn complete(
        &self,
        version: &str,
        chosen: &[&RemoteFile],
        fetcher: &Fetcher,
        client: &Client,
        request: impl Fn(&RemoteFile, PathBuf) -> FileRequest,
    ) -> Result<PathBuf, FetchError> {
        let directory = self.home.join(version);
        let Sources { patience, .. } = &fetcher.sources;
        let mut progress = fetcher.follow(chosen.iter().filter_map(|file| file.bytes).sum());
        for file in chosen {
            let request = request(file, directory.join(&file.name));
            fetch::file(client, &request, patience, &mut progress).await?;
        }
        progress.finish();
        self.remember(version)?;
        Ok(match chosen {
            [only] if only.name.ends_with(".gguf") => directory.join(&only.name),
            _ => directory,
        })
    }

    /// Notes that everything of `version` is here.
    fn remember(&self, version: &str) -> Result<(), FetchError> {
        let known = self.known();
        let failed = |source| FetchError::of_write(known.clone(), source);
        fs::create_dir_all(self.home.join("refs")).map_err(failed)?;
        // Whole or not at all, whoever else writes it at the same time.
        let new = known.with_extension(format!("{}.new", std::process::id()));
        fs::write(&new, version).map_err(failed)?;
        fs::rename(&new, &known).map_err(failed)
    }

    fn known(&self) -> PathBuf {
        self.home.join("refs").join(&self.name)
    }
}
