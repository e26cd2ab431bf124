//! Takes up new files while connections are open.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::identity::FILES;
use super::{Identity, Pem, TlsError, story};

/// How soon changed files are seen.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Something that is made of files, and made anew when they change.
pub(super) trait OfFiles {
    /// What is in the files.
    type Content;
    /// Why they cannot be used.
    type Error: std::error::Error;

    /// What is in them now.
    fn read(&self) -> impl Future<Output = Result<Self::Content, Self::Error>> + Send;
    /// This is in use already.
    fn holds(&self, content: &Self::Content) -> bool;
    /// From now on this is in use. Errors: it cannot be, and what is in use stays.
    fn take(&self, content: &Self::Content) -> Result<(), Self::Error>;
    /// When what is in use ends.
    fn expires_unix_seconds(&self) -> i64;
    /// Files that have changed are not usable; heard once for each reason.
    fn is_refused(&self) {}
}

/// Uses what is in the files whenever it has changed, and looks each `pause`. Never returns.
pub(super) async fn follow(what: &impl OfFiles, pause: Duration) {
    let mut complaint = Complaint::default();
    loop {
        let looked = match what.read().await {
            Ok(content) if what.holds(&content) => Ok(()),
            // What was refused for the time, not for what it is, may be right by now.
            Ok(content) => what.take(&content).inspect(|()| {
                let expires_unix_seconds = what.expires_unix_seconds();
                tracing::info!(expires_unix_seconds, "took up new files for TLS");
            }),
            Err(error) => Err(error),
        };
        match looked {
            Ok(()) => complaint = Complaint::default(),
            Err(error) => {
                let error = story(&error);
                if complaint.is_due(&error) {
                    tracing::warn!(error, "the files for TLS are not usable; the old stay in use");
                    what.is_refused();
                }
            }
        }
        sleep(pause).await;
    }
}

/// Says each thing once, and not before it was seen twice: whoever reads several files may see
/// some of before and some of after a change.
#[derive(Default)]
struct Complaint {
    seen: String,
    is_said: bool,
}

impl Complaint {
    fn is_due(&mut self, story: &str) -> bool {
        if self.seen == story {
            return !std::mem::replace(&mut self.is_said, true);
        }
        *self = Self { seen: story.to_owned(), is_said: false };
        false
    }
}

impl Identity {
    /// Uses what is in `directory` whenever it has changed. Files that do not fit each other, such
    /// as half-written ones, change nothing, and a line in the log says so. Never returns.
    pub async fn follow(&self, directory: &Path) {
        self.follow_every(directory, LOOK).await;
    }

    pub(super) async fn follow_every(&self, directory: &Path, pause: Duration) {
        follow(&Directory { identity: self, path: directory }, pause).await;
    }
}

/// An identity, and where its three files are.
struct Directory<'a> {
    identity: &'a Identity,
    path: &'a Path,
}

impl OfFiles for Directory<'_> {
    type Content = Pem;
    type Error = TlsError;

    async fn read(&self) -> Result<Pem, TlsError> {
        let mut parts = Vec::with_capacity(FILES.len());
        for name in FILES {
            let path = self.path.join(name);
            let part = tokio::fs::read(&path).await;
            parts.push(part.map_err(|source| TlsError::Read { path, source })?);
        }
        let [certificate, key, authorities]: [Vec<u8>; 3] =
            parts.try_into().expect("one part for each of three files");
        Ok(Pem { certificate, key, authorities })
    }

    fn holds(&self, pem: &Pem) -> bool {
        self.identity.holds(pem)
    }

    fn take(&self, pem: &Pem) -> Result<(), TlsError> {
        self.identity.replace(pem)
    }

    fn expires_unix_seconds(&self) -> i64 {
        self.identity.expires_unix_seconds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_said_once_and_only_of_what_stays() {
        let mut complaint = Complaint::default();
        let said: Vec<bool> =
            ["a", "b", "b", "b", "a", "a"].map(|story| complaint.is_due(story)).into();
        assert_eq!(said, [false, false, true, false, false, true]);
    }
}
