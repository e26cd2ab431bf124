//! Takes up new files while connections are open.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::identity::FILES;
use super::{Identity, Pem, TlsError, story};

/// How soon changed files are seen.
const LOOK: Duration = Duration::from_secs(1);

impl Identity {
    /// Uses what is in `directory` whenever it has changed. Files that do not fit each other, such
    /// as half-written ones, change nothing, and a line in the log says so. Never returns.
    pub async fn follow(&self, directory: &Path) {
        self.follow_every(directory, LOOK).await;
    }

    pub(super) async fn follow_every(&self, directory: &Path, pause: Duration) {
        let mut refused: Option<String> = None;
        loop {
            match read(directory).await {
                Ok(pem) if self.holds(&pem) => refused = None,
                // What was refused for the time, not for what it is, may be right by now.
                Ok(pem) => match self.replace(&pem) {
                    Ok(()) => {
                        let expires_unix_seconds = self.expires_unix_seconds();
                        tracing::info!(expires_unix_seconds, "took up new files for TLS");
                        refused = None;
                    }
                    Err(error) => complain(&mut refused, &error),
                },
                Err(error) => complain(&mut refused, &error),
            }
            sleep(pause).await;
        }
    }
}

/// Says each thing once.
fn complain(said: &mut Option<String>, error: &TlsError) {
    let story = story(error);
    if said.as_ref() != Some(&story) {
        tracing::warn!(error = story, "the files for TLS are not usable; the old ones stay in use");
        *said = Some(story);
    }
}

async fn read(directory: &Path) -> Result<Pem, TlsError> {
    let mut parts = Vec::with_capacity(FILES.len());
    for name in FILES {
        let path = directory.join(name);
        let part = tokio::fs::read(&path).await;
        parts.push(part.map_err(|source| TlsError::Read { path, source })?);
    }
    let [certificate, key, authorities]: [Vec<u8>; 3] =
        parts.try_into().expect("one part for each of three files");
    Ok(Pem { certificate, key, authorities })
}
