//! Wishes in files: read at the start, and again whenever their text changes.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use naru_api::{Problem, Source, Wishes, check};
use naru_plan::DeploymentName;
use tokio::sync::watch;
use tokio::time::sleep;

/// How often files are looked at. A text counts once it was the same twice, so that a file is
/// not read while it is being written.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why the files are not a wish.
#[derive(Debug)]
pub enum FilesError {
    /// A file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Documents are wrong; every problem of every file.
    Problems(Vec<Problem>),
    /// A model deployment whose weights only a cluster has.
    Claim(DeploymentName),
}

impl fmt::Display for FilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "reading {}: {source}", path.display()),
            Self::Problems(problems) => {
                let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::Claim(name) => write!(
                f,
                "ModelDeployment {name}: spec.model.uri: pvc:// names a claim of a cluster; on one \
                 machine use file:///PATH"
            ),
        }
    }
}

impl std::error::Error for FilesError {}

/// The files a user named.
#[derive(Debug)]
pub struct WishFiles {
    paths: Vec<PathBuf>,
    texts: Vec<String>,
}

impl WishFiles {
    /// Reads and checks the files for the first time.
    pub fn open(paths: Vec<PathBuf>) -> Result<(Self, Wishes), FilesError> {
        let texts = read(&paths)?;
        let wishes = parse(&paths, &texts)?;
        say_what_is_ignored(&wishes);
        Ok((Self { paths, texts }, wishes))
    }

    /// Sends the wishes whenever the files change. A change that is wrong changes nothing; what
    /// is wrong with it is logged, once.
    pub async fn watch(mut self, wishes: watch::Sender<Arc<Wishes>>) {
        let mut seen = Ok(self.texts.clone());
        loop {
            sleep(LOOK_EVERY).await;
            let look = self.look().await;
            let is_settled = look == seen;
            seen = look;
            match &seen {
                Ok(texts) if is_settled && *texts != self.texts => {
                    self.texts = texts.clone();
                    self.accept(&wishes);
                }
                Err(words) if !is_settled => refuse(words),
                _ => {}
            }
        }
    }

    /// The texts, or why they cannot be read.
    async fn look(&self) -> Result<Vec<String>, String> {
        let paths = self.paths.clone();
        let reading = tokio::task::spawn_blocking(move || read(&paths));
        match reading.await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn accept(&self, wishes: &watch::Sender<Arc<Wishes>>) {
        match parse(&self.paths, &self.texts) {
            Ok(new) => {
                let (deployments, tenants) = (new.deployments.len(), new.tenants.len());
                tracing::info!(deployments, tenants, "the files changed");
                say_what_is_ignored(&new);
                wishes.send_if_modified(|old| {
                    let is_news = **old != new;
                    *old = Arc::new(new);
                    is_news
                });
            }
            Err(FilesError::Problems(problems)) => {
                problems.iter().for_each(|problem| refuse(&problem.to_string()));
            }
            Err(error) => refuse(&error.to_string()),
        }
    }
}

fn refuse(words: &str) {
    tracing::error!("the change is not taken, everything goes on as before: {words}");
}

/// One line for everything in the files that only a cluster obeys.
fn say_what_is_ignored(wishes: &Wishes) {
    let ignored = ignored(wishes);
    if !ignored.is_empty() {
        tracing::warn!("ignored on one machine, a cluster obeys it: {}", ignored.join("; "));
    }
}

fn ignored(wishes: &Wishes) -> Vec<String> {
    let of_deployment = |(name, fields): (&DeploymentName, &Vec<&str>)| {
        format!("ModelDeployment {name}: spec.{}", fields.join(", spec."))
    };
    wishes.cluster_fields.iter().map(of_deployment).collect()
}

fn parse(paths: &[PathBuf], texts: &[String]) -> Result<Wishes, FilesError> {
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let sources: Vec<_> =
        names.iter().zip(texts).map(|(file, text)| Source { file, text }).collect();
    let wishes = check(&sources).map_err(FilesError::Problems)?;
    let claiming =
        wishes.deployments.iter().find(|desired| desired.template.model.uri.claimed().is_some());
    match claiming {
        Some(desired) => Err(FilesError::Claim(desired.name.clone())),
        None => Ok(wishes),
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<String>, FilesError> {
    let one = |path: &PathBuf| {
        let mut text = String::new();
        // One byte more than may be: the check then says that it is too long.
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let named = |path: &PathBuf| {
        one(path).map_err(|source| FilesError::Read { path: path.clone(), source })
    };
    paths.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\n\
        metadata: {name: a}\nspec: {model: {uri: file:///m.gguf}}\n";

    #[test]
    fn claims_are_of_clusters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, GOOD.replace("file:///m.gguf", "pvc://models/m.gguf")).unwrap();
        let words = WishFiles::open(vec![path]).unwrap_err().to_string();
        assert!(words.contains("default/a: spec.model.uri: pvc://"), "{words}");
    }

    #[tokio::test]
    async fn edits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(GOOD);
        let (files, first) = WishFiles::open(vec![path.clone()]).unwrap();
        let (sender, mut wishes) = watch::channel(Arc::new(first));
        tokio::spawn(files.watch(sender));

        write("kind: [");
        sleep(LOOK_EVERY * 4).await;
        assert!(!wishes.has_changed().unwrap(), "a bad edit changes nothing");
        std::fs::remove_file(&path).unwrap();
        sleep(LOOK_EVERY * 4).await;
        assert!(!wishes.has_changed().unwrap(), "nor does a file that is gone");
        write(&GOOD.replace("spec: {", "spec: {replicas: 3, "));
        wishes.changed().await.unwrap();
        assert_eq!(wishes.borrow_and_update().deployments[0].replicas.0, 3, "a good one is taken");
        write(&format!("# a comment\n{}", GOOD.replace("spec: {", "spec: {replicas: 3, ")));
        sleep(LOOK_EVERY * 4).await;
        assert!(!wishes.has_changed().unwrap(), "the same wish in other words is no news");
    }

    #[test]
    fn what_only_a_cluster_obeys_is_said() {
        let spec = "spec: {placement: {zones: [a]}, podTemplate: {}, ";
        let texts = [
            GOOD.replace("spec: {", spec),
            "apiVersion: naru.dev/v1alpha1\nkind: PowerBudget\nmetadata: {name: hall}\n\
             spec: {watts: 1000}\n"
                .into(),
            "apiVersion: naru.dev/v1alpha1\nkind: Tenant\nmetadata: {name: bank}\n\
             spec: {quota: {concurrentRequests: 2}}\n"
                .into(),
        ];
        let paths: Vec<_> = (0..3).map(|n| PathBuf::from(n.to_string())).collect();
        let wishes = parse(&paths, &texts).unwrap();
        assert_eq!(wishes.tenants[0].concurrent_requests_max, Some(2));
        let expected = "ModelDeployment default/a: spec.placement, spec.podTemplate";
        assert_eq!(ignored(&wishes), [expected]);
    }

    #[test]
    fn a_first_look_that_fails() {
        let missing = vec![PathBuf::from("/nowhere/a.yaml")];
        assert!(matches!(WishFiles::open(missing), Err(FilesError::Read { .. })));
    }
}
