//! Fetching from a server on this machine that misbehaves as real ones do.

mod resume;
mod stores;
mod tls;

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, LOCATION, RANGE};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::credentials::Logins;
use super::digest::hex;
use super::retries::Patience;
use super::s3::S3Settings;
use super::{FetchError, Fetcher, ModelUri, Sources};
use crate::member::Member;

/// What the server does with the next request for a file.
#[derive(Debug, Clone)]
enum Next {
    Answer(StatusCode),
    CutAfter(usize),
    Redirect(String),
    ChangeTo(&'static [u8]),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: String,
    query: String,
    range: Option<String>,
    authorization: Option<String>,
}

#[derive(Debug)]
struct Script {
    body: Vec<u8>,
    token: Option<&'static str>,
    /// What is answered to a request for this path and query.
    pages: Vec<(String, String)>,
    has_ranges: bool,
    has_tag: bool,
    /// Before each 64 KiB.
    pause: Duration,
    next: VecDeque<Next>,
    seen: Vec<Seen>,
}

type Shared = Arc<Mutex<Script>>;

async fn answer(State(script): State<Shared>, request: Request) -> Response {
    let mut script = script.lock().expect("no test panics while holding it");
    let header = |name| {
        let value: Option<&http::HeaderValue> = request.headers().get(name);
        value.map(|value| value.to_str().expect("ASCII").to_owned())
    };
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (range, authorization) = (header(RANGE), header(AUTHORIZATION));
    script.seen.push(Seen { path: path.clone(), query, range, authorization });
    let given = header(AUTHORIZATION);
    if script.token.is_some_and(|token| given != Some(format!("Bearer {token}"))) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if let Some((_, page)) = script.pages.iter().find(|(found, _)| *found == path) {
        return page.clone().into_response();
    }
    if path.starts_with("/api/") {
        return StatusCode::NOT_FOUND.into_response();
    }
    let mut cut = None;
    match script.next.pop_front() {
        None => {}
        Some(Next::Answer(status)) => return status.into_response(),
        Some(Next::Redirect(to)) => return (StatusCode::FOUND, [(LOCATION, to)]).into_response(),
        Some(Next::CutAfter(bytes)) => cut = Some(bytes),
        Some(Next::ChangeTo(body)) => script.body = body.to_vec(),
    }
    let tag = format!("\"{}\"", &hex(&Sha256::digest(&script.body))[..8]);
    let asked = header(RANGE).filter(|_| script.has_ranges);
    let asked = asked.filter(|_| header(IF_RANGE).is_none_or(|version| version == tag));
    file(&script, asked.as_deref(), &tag, cut)
}

/// The file, or the range of it that was asked for, in chunks.
fn file(script: &Script, asked: Option<&str>, tag: &str, cut: Option<usize>) -> Response {
    let total = script.body.len();
    let range = asked.map_or(0..total, |range| {
        let range = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let (start, last) = range.expect("a range");
        let last: usize = last.parse().expect("a number");
        start.parse().expect("a number")..(last + 1).min(total)
    });
    if range.is_empty() && asked.is_some() {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let whole = Bytes::copy_from_slice(&script.body[range.clone()]);
    let sent = whole.slice(..cut.unwrap_or(whole.len()));
    let pause = script.pause;
    let body =
        futures::stream::unfold((sent, cut.is_some()), move |(mut left, is_cut)| async move {
            if left.is_empty() && is_cut {
                // What was sent is on its way by now.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Some((Err(std::io::Error::other("cut")), (left, false)));
            }
            if left.is_empty() {
                return None;
            }
            tokio::time::sleep(pause).await;
            let chunk = left.split_to(left.len().min(64 << 10));
            Some((Ok(chunk), (left, is_cut)))
        });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    if script.has_tag {
        headers.insert(ETAG, tag.parse().expect("a header"));
    }
    headers.insert(CONTENT_LENGTH, whole.len().into());
    if asked.is_some() {
        let range = format!("bytes {}-{}/{total}", range.start, range.end - 1);
        headers.insert(CONTENT_RANGE, range.parse().expect("a header"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// A server on this machine, and a fetcher with a cache of its own.
struct Bench {
    address: SocketAddr,
    script: Shared,
    cache: tempfile::TempDir,
}

const BODY: &[u8] = b"GGUF, or so it says: 0123456789 0123456789 0123456789";

impl Bench {
    async fn start() -> Self {
        let script = Script {
            body: BODY.to_vec(),
            token: None,
            pages: Vec::new(),
            has_ranges: true,
            has_tag: true,
            pause: Duration::ZERO,
            next: VecDeque::new(),
            seen: Vec::new(),
        };
        let script = Arc::new(Mutex::new(script));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, script, cache: tempfile::tempdir().expect("a directory") }
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().expect("no test panics while holding it"));
    }

    fn seen(&self) -> Vec<Seen> {
        self.script.lock().expect("no test panics while holding it").seen.clone()
    }

    fn fetcher(&self, change: impl FnOnce(&mut Sources)) -> Fetcher {
        let mut sources = Sources {
            cache_dir: self.cache.path().to_owned(),
            ca_file: None,
            sha256: None,
            hub_endpoint: format!("http://{}", self.address),
            hub_token: None,
            logins: Logins::default(),
            s3: S3Settings {
                endpoint: Some(format!("http://{}", self.address)),
                region: "us-east-1".to_owned(),
                virtual_host: false,
                credentials: None,
            },
            patience: Patience { attempts: 3, first_pause: Duration::from_millis(5) },
        };
        change(&mut sources);
        Fetcher { sources, member: Arc::new(Member::new(vec!["m".to_owned()], None, 1)) }
    }

    fn url(&self) -> ModelUri {
        ModelUri::Http(format!("http://{}/models/m.gguf", self.address))
    }

    async fn obtain(&self) -> Result<PathBuf, FetchError> {
        self.fetcher(|_| {}).obtain(&self.url()).await
    }
}

fn content(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a fetched file")
}

/// Names of all files in the cache.
fn files(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in directory.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names.extend(files(&path));
        } else {
            names.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
    }
    names.sort();
    names
}

#[tokio::test]
async fn a_file_is_fetched_once() {
    let bench = Bench::start().await;
    let path = bench.obtain().await.expect("fetched");
    assert_eq!(content(&path), BODY);
    assert_eq!(bench.obtain().await.expect("cached"), path);
    assert_eq!(bench.seen().len(), 1, "the second time it was there");
    assert_eq!(files(bench.cache.path()), [".m.gguf.lock", "m.gguf"]);
}

#[tokio::test]
async fn two_at_once_fetch_once() {
    let bench = Bench::start().await;
    let (one, two) = tokio::join!(bench.obtain(), bench.obtain());
    assert_eq!(content(&one.expect("one")), content(&two.expect("two")));
    assert_eq!(bench.seen().len(), 1, "one of them waited for the other");
}

#[tokio::test]
async fn a_cut_connection_goes_on_where_it_broke_off() {
    let bench = Bench::start().await;
    bench.set(|script| script.next.extend([Next::CutAfter(20), Next::CutAfter(10)]));
    let digest = hex(&Sha256::digest(BODY));
    let fetcher = bench.fetcher(|sources| sources.sha256 = Some(digest));
    let path = fetcher.obtain(&bench.url()).await.expect("resumed");
    assert_eq!(content(&path), BODY);
    let ranges: Vec<_> = bench.seen().into_iter().filter_map(|seen| seen.range).collect();
    assert_eq!(ranges, ["bytes=0-4194303", "bytes=20-52", "bytes=30-52"]);
}

#[tokio::test]
async fn the_rest_of_another_version_is_not_taken() {
    let bench = Bench::start().await;
    let other = b"another version";
    bench.set(|script| script.next.extend([Next::CutAfter(20), Next::ChangeTo(other)]));
    assert_eq!(content(&bench.obtain().await.expect("fetched anew")), other);
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_thrown_away() {
    let bench = Bench::start().await;
    let fetcher = bench.fetcher(|sources| sources.sha256 = Some("0".repeat(64)));
    let error = fetcher.obtain(&bench.url()).await.expect_err("not this file");
    assert!(matches!(error, FetchError::WrongDigest { .. }), "{error}");
    assert!(error.to_string().contains(&hex(&Sha256::digest(BODY))), "{error}");
    assert_eq!(files(bench.cache.path()), [".m.gguf.lock"]);
}

#[tokio::test]
async fn failures_say_what_to_do() {
    #[track_caller]
    fn check(fact: &str, error: &FetchError, part: &str) {
        assert!(error.to_string().contains(part), "{fact}: {error}");
    }
    for (status, part, requests) in [
        (StatusCode::UNAUTHORIZED, "set HF_TOKEN", 1),
        (StatusCode::FORBIDDEN, "may read it", 1),
        (StatusCode::NOT_FOUND, "check its name", 1),
        (StatusCode::SERVICE_UNAVAILABLE, "try again later", 3),
        (StatusCode::BAD_REQUEST, "check the address", 1),
    ] {
        let bench = Bench::start().await;
        bench.set(|script| script.next.extend(vec![Next::Answer(status); 9]));
        let error = bench.obtain().await.expect_err("refused");
        check(status.as_str(), &error, part);
        assert_eq!(bench.seen().len(), requests, "{status}: only what may pass is tried again");
    }
    let bench = Bench::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = listener.local_addr().expect("bound");
    drop(listener);
    let uri = ModelUri::Http(format!("http://{closed}/m.gguf"));
    let error = bench.fetcher(|_| {}).obtain(&uri).await.expect_err("nobody there");
    check("a closed port", &error, "refuses connections");
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    check("a full disk", &FetchError::of_write("/x".into(), full), "free some space");
    let blocked = bench.cache.path().join("blocked");
    fs::write(&blocked, "a file where a directory should be").expect("written");
    let fetcher = bench.fetcher(|sources| sources.cache_dir = blocked);
    let error = fetcher.obtain(&bench.url()).await.expect_err("no directory");
    check("an unusable cache", &error, "--cache-dir");
}

#[tokio::test]
async fn a_passing_failure_is_not_the_end() {
    let bench = Bench::start().await;
    let busy = Next::Answer(StatusCode::TOO_MANY_REQUESTS);
    bench.set(|script| script.next.extend([busy, Next::Answer(StatusCode::BAD_GATEWAY)]));
    assert_eq!(content(&bench.obtain().await.expect("third time")), BODY);
}

/// A listing of the hub with these files, the last of them with its digest.
fn listing(repo: &str, revision: &str, names: &[&str]) -> Vec<(String, String)> {
    let digest = hex(&Sha256::digest(BODY));
    let file = |name: &&str| {
        let large = json!({"sha256": digest, "size": BODY.len()});
        let large = if Some(name) == names.last() { large } else { json!(null) };
        json!({"rfilename": name, "size": BODY.len(), "lfs": large})
    };
    let listing = json!({"sha": "c0ffee", "siblings": names.iter().map(file).collect::<Vec<_>>()});
    vec![(format!("/api/models/{repo}/revision/{revision}"), listing.to_string())]
}

#[tokio::test]
async fn a_hub_repository_is_fetched_with_the_token_and_only_there() {
    let (hub, store) = (Bench::start().await, Bench::start().await);
    let stored = format!("http://{}/blob", store.address);
    hub.set(|script| {
        script.token = Some("secret");
        script.pages = listing("org/repo", "main", &["README.md", "m.gguf"]);
        script.next.push_back(Next::Redirect(stored));
    });
    let uri: ModelUri = "hf://org/repo@main".parse().expect("a URI");
    let error = hub.fetcher(|_| {}).obtain(&uri).await.expect_err("no token");
    assert!(matches!(error, FetchError::Unauthorized { .. }), "{error}");
    let fetcher = hub.fetcher(|sources| sources.hub_token = Some("secret".to_owned()));
    let path = fetcher.obtain(&uri).await.expect("fetched");
    assert!(path.ends_with("org--repo/c0ffee/m.gguf"), "{}", path.display());
    assert_eq!(content(&path), BODY);
    assert_eq!(hub.seen().last().expect("seen").path, "/org/repo/resolve/c0ffee/m.gguf");
    let elsewhere = store.seen();
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].authorization, None, "the token stays with the hub");
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_is_not_needed_twice() {
    let bench = Bench::start().await;
    let names = ["config.json", "model.safetensors"];
    bench.set(|script| script.pages = listing("org/repo", "main", &names));
    let uri: ModelUri = "hf://org/repo".parse().expect("a URI");
    let path = bench.fetcher(|_| {}).obtain(&uri).await.expect("fetched");
    let gone = |sources: &mut Sources| sources.hub_endpoint = "http://127.0.0.1:9".to_owned();
    assert_eq!(bench.fetcher(gone).obtain(&uri).await.expect("from the cache"), path);
    let other: ModelUri = "hf://org/other".parse().expect("a URI");
    bench.fetcher(gone).obtain(&other).await.expect_err("never fetched");
}

#[tokio::test]
async fn the_files_of_a_hub_repository_are_chosen_by_rule() {
    async fn check(fact: &str, names: &[&str], uri: &str, expected: Result<&[&str], &str>) {
        let bench = Bench::start().await;
        bench.set(|script| script.pages = listing("o/r", "main", names));
        let uri: ModelUri = uri.parse().expect(fact);
        let result = bench.fetcher(|_| {}).obtain(&uri).await;
        match expected {
            Err(part) => {
                let error = result.expect_err(fact).to_string();
                assert!(error.contains(part), "{fact}: {error}");
            }
            Ok(expected) => {
                result.expect(fact);
                let mut names = files(&bench.cache.path().join("hub/o--r/c0ffee"));
                names.retain(|name| !name.ends_with(".lock"));
                assert_eq!(names, expected, "{fact}");
            }
        }
    }
    let safetensors =
        ["README.md", "config.json", "consolidated.safetensors", "model.safetensors", "a.gguf"];
    let chosen: &[&str] = &["config.json", "model.safetensors"];
    check("safetensors and what belongs to them", &safetensors, "hf://o/r", Ok(chosen)).await;
    check("the file that was named", &safetensors, "hf://o/r/a.gguf", Ok(&["a.gguf"])).await;
    check("the only .gguf", &["x.md", "a.gguf"], "hf://o/r", Ok(&["a.gguf"])).await;
    check("several", &["a.gguf", "b.gguf"], "hf://o/r", Err("hf://o/r/b.gguf")).await;
    check("none", &["x.md", "y.bin"], "hf://o/r", Err("has no .gguf")).await;
    check("a wrong name", &["a.gguf"], "hf://o/r/c.gguf", Err("no file c.gguf")).await;
    check("an escape", &["a/../../b.gguf"], "hf://o/r", Err("unsafe name")).await;
    check("nothing that is hidden", &[".gitattributes", "a.gguf"], "hf://o/r", Ok(&["a.gguf"]))
        .await;
    check("a plain one", &["../b.gguf"], "hf://o/r", Err("unsafe name")).await;
}

#[tokio::test]
async fn a_directory_has_the_digest_of_its_sorted_lines() {
    let bench = Bench::start().await;
    let directory = bench.cache.path().join("model");
    fs::create_dir(&directory).expect("made");
    for (name, text) in [("b", "1"), ("a", "2"), (".hidden", "3")] {
        fs::write(directory.join(name), text).expect("written");
    }
    // printf 1 > b; printf 2 > a; sha256sum * | sort | sha256sum
    let mut lines = [format!("{}  b\n", hex(&Sha256::digest("1"))), String::new()];
    lines[1] = format!("{}  a\n", hex(&Sha256::digest("2")));
    lines.sort();
    let digest = hex(&Sha256::digest(lines.concat()));
    let uri = ModelUri::Path(directory);
    let right = bench.fetcher(|sources| sources.sha256 = Some(digest));
    right.obtain(&uri).await.expect("as expected");
    let wrong = bench.fetcher(|sources| sources.sha256 = Some("1".repeat(64)));
    wrong.obtain(&uri).await.expect_err("another digest");
}
