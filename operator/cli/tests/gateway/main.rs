//! `naru gateway` and `naru key` as processes.
#![allow(clippy::unwrap_used, clippy::panic)] // all of this is a test, also what is no #[test]

mod tls;
mod traces;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn naru(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_naru")).args(arguments).output().unwrap()
}

#[test]
fn a_key_and_the_entry_for_its_tenant() {
    let made = naru(&["key", "create", "--name", "test", "--tenant", "saudi"]);
    assert!(made.status.success(), "{made:?}");
    let text = String::from_utf8(made.stdout).unwrap();
    let (key, entry) = text.split_once('\n').unwrap();
    assert!(key.starts_with("naru_") && key.len() == 48, "{key}");
    assert!(entry.contains("saudi") && entry.contains("- name: test\n  sha256: "), "{entry}");
    assert!(!entry.contains(key), "the entry holds the digest alone");
    assert_eq!(naru(&["key", "create", "--name", "A"]).status.code(), Some(2));
}

#[test]
fn bad_usage_is_exit_code_2() {
    let rows: [&[&str]; 3] = [
        &["gateway"],
        &["gateway", "--operator", "nowhere", "--listen", "127.0.0.1:0"],
        &["gateway", "--operator", "127.0.0.1:1", "--listen", "127.0.0.1"],
    ];
    for row in rows {
        let ended = naru(row);
        assert_eq!(ended.status.code(), Some(2), "{row:?}: {ended:?}");
    }
}

/// Answers every request, one byte a time of it late, until the test ends.
fn worker(begun: std::sync::mpsc::Sender<()>, finish: std::sync::mpsc::Receiver<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe").unwrap();
            begun.send(()).unwrap();
            finish.recv().unwrap();
            stream.write_all(b"llo").unwrap();
        }
    });
    address
}

/// A gateway that nobody but the disk tells anything.
struct Gateway {
    process: Child,
    api: String,
    ops: String,
}

impl Gateway {
    fn start(data_dir: &Path, options: &[&str], environment: &[(&str, &str)]) -> Self {
        let [api, ops] = [free_port(), free_port()];
        let data_dir = data_dir.to_str().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_naru"))
            .args(["gateway", "--operator", "127.0.0.1:1", "--listen", &api, "--ops-listen", &ops])
            .args(["--data-dir", data_dir])
            .args(options)
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { process, api, ops }
    }

    fn terminate(&self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Waits for this answer of `/readyz`.
    fn waits_for(&self, status: u16) {
        until(&format!("/readyz says {status}"), || {
            ask(&self.ops, "GET /readyz HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n")
                .is_some_and(|answer| answer.starts_with(&format!("HTTP/1.1 {status}")))
        });
    }

    /// Waits for its end: the exit code and everything it logged.
    fn ended(&mut self) -> (Option<i32>, String) {
        let log = BufReader::new(self.process.stderr.take().unwrap());
        let lines: Vec<_> = log.lines().map_while(Result::ok).collect();
        (self.process.wait().unwrap().code(), lines.join("\n"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Leaves a snapshot in `folder`: the model `m` at `worker`, and a tenant with this key.
fn snapshot(folder: &Path, worker: &str, sha256: &str) {
    let snapshot = format!(
        r#"{{"version":{{"epoch":1,"sequence":1}},"models":{{"m":{{"deployment":"default/m",
        "created_unix_seconds":1,"access":"All","wakes":true,"endpoints":[{{"replica":"m-0",
        "address":"{worker}","ready":true,"draining":false}}]}}}},"tenants":[{{"name":"saudi",
        "keys":[{{"name":"prod","sha256":"{sha256}"}}]}}]}}"#
    );
    fs::write(folder.join("snapshot.json"), snapshot).unwrap();
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn until(fact: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{fact}: it does not come");
        thread::sleep(Duration::from_millis(10));
    }
}

fn ask(address: &str, said: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(said.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn chat(headers: &str) -> String {
    let body = "{\"model\":\"m\"}";
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: n\r\nconnection: close\r\n{headers}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_gateway_starts_from_disk_and_drains() {
    let folder = TempDir::new().unwrap();
    let (begun, begins) = std::sync::mpsc::channel();
    let (finish, finishes) = std::sync::mpsc::channel();
    let worker = worker(begun, finishes);
    let made = String::from_utf8(naru(&["key", "create"]).stdout).unwrap();
    let key = made.lines().next().unwrap().to_owned();
    let sha256 = made.rsplit("sha256: ").next().unwrap().trim();
    snapshot(folder.path(), &worker, sha256);
    let mut gateway = Gateway::start(folder.path(), &["--leave-seconds", "0"], &[]);
    gateway.waits_for(200);
    let refused = ask(&gateway.api, &chat("")).unwrap();
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let (api, said) = (gateway.api.clone(), chat(&format!("authorization: Bearer {key}\r\n")));
    let client = thread::spawn(move || ask(&api, &said).unwrap());
    begins.recv_timeout(PATIENCE).unwrap();
    gateway.terminate();
    gateway.waits_for(503);
    until("it takes nobody new", || TcpStream::connect(&gateway.api).is_err());
    finish.send(()).unwrap();
    let answer = client.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    let (code, log) = gateway.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("saudi") && !log.contains(&key), "a tenant, not its key: {log}");
}

#[test]
fn a_gateway_without_any_snapshot_is_not_ready() {
    let folder = TempDir::new().unwrap();
    let mut gateway = Gateway::start(folder.path(), &["--leave-seconds", "0"], &[]);
    gateway.waits_for(503);
    gateway.terminate();
    let (code, log) = gateway.ended();
    assert_eq!(code, Some(0), "{log}");
}
