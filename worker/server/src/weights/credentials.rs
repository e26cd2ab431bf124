//! What opens private weights: from files of a directory, else from the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;

/// Logins to registries, as `docker login` and Kubernetes write them.
const LOGINS: &str = ".dockerconfigjson";

/// Where to look for secrets.
#[derive(Debug, Clone, Default)]
pub(super) struct Wallet {
    /// Its files are named as the variables that it takes the place of.
    pub(super) directory: Option<PathBuf>,
}

impl Wallet {
    /// The secret `name`, if it is anywhere.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let in_file = self.directory.as_ref().and_then(|directory| read(&directory.join(name)));
        in_file.or_else(|| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    /// The logins to registries.
    pub(super) fn logins(&self) -> Logins {
        let given = self.directory.as_ref().map(|directory| directory.join(LOGINS));
        let docker = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
        let usual = docker.or(home).map(|directory| directory.join("config.json"));
        let text = given.and_then(|path| read(&path)).or_else(|| read(&usual?));
        text.map(|text| Logins::parse(&text)).unwrap_or_default()
    }
}

fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Who one is to each registry.
#[derive(Clone, Default)]
pub(super) struct Logins(BTreeMap<String, Login>);

/// A name and a password; not shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) name: String,
    pub(super) password: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerLogin>,
}

#[derive(Deserialize)]
struct DockerLogin {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

impl Logins {
    fn parse(text: &str) -> Self {
        let Ok(config) = serde_json::from_str::<DockerConfig>(text) else {
            tracing::warn!("the logins to registries cannot be read: none is used");
            return Self::default();
        };
        let logins = config.auths.into_iter();
        let logins = logins.filter_map(|(place, login)| Some((host(&place), login.parse()?)));
        Self(logins.collect())
    }

    /// The login to `registry`, a host with its port if it has one.
    pub(super) fn of(&self, registry: &str) -> Option<&Login> {
        self.0.get(registry)
    }
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl DockerLogin {
    fn parse(self) -> Option<Login> {
        if let (Some(name), Some(password)) = (self.username, self.password) {
            return Some(Login { name, password });
        }
        let text = String::from_utf8(STANDARD.decode(self.auth?).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        Some(Login { name: name.to_owned(), password: password.to_owned() })
    }
}

/// `https://HOST/v1/` is an old way to write `HOST`.
fn host(place: &str) -> String {
    let place = place.split_once("://").map_or(place, |(_, rest)| rest);
    place.split('/').next().unwrap_or(place).to_owned()
}

/// `Bearer TOKEN`, not to be shown.
pub(super) fn bearer(token: &str) -> HeaderValue {
    secret(&format!("Bearer {token}"))
}

/// `Basic …`, not to be shown.
pub(super) fn basic(login: &Login) -> HeaderValue {
    let Login { name, password } = login;
    secret(&format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
}

fn secret(text: &str) -> HeaderValue {
    // A token with a line break in it opens nothing, and must not become a header of its own.
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("Bearer"));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_read_as_docker_and_kubernetes_write_them() {
        let text = r#"{"auths": {
            "registry.example:5000": {"auth": "bmFydTpzZWNyZXQ6d29yZA=="},
            "https://old.example/v1/": {"username": "a", "password": "b", "auth": "ignored"},
            "broken.example": {"auth": "?"},
            "empty.example": {}
        }, "credsStore": "desktop"}"#;
        let logins = Logins::parse(text);
        #[track_caller]
        fn check(logins: &Logins, registry: &str, expected: Option<(&str, &str)>) {
            let found = logins.of(registry);
            let found = found.map(|login| (login.name.as_str(), login.password.as_str()));
            assert_eq!(found, expected, "{registry}");
        }
        check(&logins, "registry.example:5000", Some(("naru", "secret:word")));
        check(&logins, "old.example", Some(("a", "b")));
        check(&logins, "broken.example", None);
        check(&logins, "empty.example", None);
        check(&logins, "another.example", None);
        check(&Logins::parse("not JSON"), "registry.example:5000", None);
        assert!(!format!("{logins:?}").contains("secret"), "{logins:?}");
    }

    #[test]
    fn files_come_before_the_environment() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("HOME"), " from a file \n").expect("written");
        let wallet = Wallet { directory: Some(directory.path().to_owned()) };
        assert_eq!(wallet.get("HOME").as_deref(), Some("from a file"));
        assert_eq!(wallet.get("PATH"), std::env::var("PATH").ok(), "as there is no such file");
        assert_eq!(wallet.get("NOBODY_SETS_THIS"), None);
    }

    #[test]
    fn headers_do_not_show_secrets() {
        let login = Login { name: "naru".to_owned(), password: "word".to_owned() };
        assert_eq!(basic(&login).to_str().expect("ASCII"), "Basic bmFydTp3b3Jk");
        assert_eq!(format!("{:?}", bearer("t0ken")), "Sensitive");
        assert_eq!(bearer("two\nlines"), "Bearer");
    }
}
