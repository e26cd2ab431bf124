//! `naru up` within a power budget: real processes, simulated models.
#![allow(clippy::unwrap_used)] // all of this is a test, also what is no #[test] function

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const DRAIN_SECONDS: u64 = 5;
/// Drain time, grace, the time to be gone, slack: as long before a step a drain begins.
const LEAD_SECONDS: u64 = DRAIN_SECONDS + 25;

/// Three replicas at 300 W each in a hall of so many watts, inside a site.
fn documents(hall: u64, schedule: &str) -> String {
    format!(
        "apiVersion: naru.dev/v1alpha1\nkind: PowerBudget\nmetadata: {{name: site}}\n\
         spec: {{watts: 5000}}\n---\n\
         apiVersion: naru.dev/v1alpha1\nkind: PowerBudget\nmetadata: {{name: hall}}\n\
         spec: {{watts: {hall}, overheadWatts: 50, parent: site, schedule: [{schedule}]}}\n---\n\
         apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: solar}}\n\
         spec:\n  model: {{uri: \"sim://llama-3.1-8b-h100\"}}\n  backend: sim\n  replicas: 3\n  \
         power: {{budget: hall, maxWattsPerDevice: 300}}\n  \
         rollout: {{drainSeconds: {DRAIN_SECONDS}}}\n"
    )
}

/// A running `naru up`.
struct Up {
    child: Child,
    folder: TempDir,
    api: String,
    ops: String,
    lines: Receiver<String>,
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Up {
    fn start(text: &str) -> Self {
        let naru = PathBuf::from(env!("CARGO_BIN_EXE_naru"));
        let worker = naru.with_file_name("naru-worker");
        assert!(worker.is_file(), "build it: cargo build --workspace --bins");
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("wish.yaml"), text).unwrap();
        let (api, ops) = (free_address(), free_address());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut child = Command::new(naru)
            .arg("up")
            .args(["--listen", &api, "--ops-listen", &ops])
            .arg("--file")
            .arg(folder.path().join("wish.yaml"))
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .env("NARU_WORKER", worker)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).all(|l| sender.send(l).is_ok()));
        Self { child, folder, api, ops, lines }
    }

    fn wish(&self, text: &str) {
        let path = self.folder.path().join("wish.yaml");
        fs::write(self.folder.path().join("new"), text).unwrap();
        fs::rename(self.folder.path().join("new"), path).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// A metric, once there is one.
    fn metric(&self, name: &str) -> Option<u64> {
        let page = ask(&self.ops, "GET /metrics", "").ok()?;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    fn ready(&self) -> u64 {
        self.metric("naru_gateway_endpoints_ready{model=\"solar\"}").unwrap_or(0)
    }

    fn charged(&self) -> u64 {
        self.metric("naru_power_charged_watts{budget=\"hall\"}").unwrap_or(0)
    }

    #[track_caller]
    fn until(&self, fact: &str, within: Duration, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let (ready, charged, log) = (self.ready(), self.charged(), self.log());
            assert!(begun.elapsed() < within, "{fact}: {ready} ready, {charged} W, {log}");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Up {
    /// Its workers end with it: they hear of it through their standard input.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole answer to one request.
fn ask(address: &str, line: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Clients that ask all the time for answers of a second or two; returns how many they got.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(address: &str, count: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let client = |_| {
            let (stop, answered, address) = (stop.clone(), answered.clone(), address.to_owned());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let body = r#"{"model":"solar","prompt":"Hi","max_tokens":150,
                        "min_tokens":150,"stream":true}"#;
                    let answer = ask(&address, "POST /v1/completions", body).unwrap();
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    assert!(answer.contains("data: [DONE]"), "a stream was cut: {answer}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..count).map(client).collect();
        Self { stop, answered, threads }
    }

    fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no stream is cut"));
        self.answered.load(Ordering::Relaxed)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_budget_for_two_holds_a_wish_for_three_until_it_is_raised() {
    let up = Up::start(&documents(700, ""));
    up.until("two of three", PATIENCE, |up| up.ready() == 2);
    assert_eq!(up.metric("naru_power_budget_watts{budget=\"hall\"}"), Some(700));
    assert_eq!(up.metric("naru_power_headroom_watts{budget=\"hall\"}"), Some(50));
    assert_eq!(up.metric("naru_power_charged_watts{budget=\"site\"}"), Some(600));
    let why = "2 of 3 replicas fit: one more takes 300 W, and budget hall lacks 250 W";
    let log = up.log();
    let line = log.lines().find(|line| line.contains("PowerFits")).unwrap();
    assert!(line.contains("PowerBudgetFull") && log.contains(why), "{log}");
    sleep(Duration::from_secs(2));
    assert_eq!((up.ready(), up.charged()), (2, 600), "it stays at two");
    up.wish(&documents(950, ""));
    up.until("raised, there are three", PATIENCE, |up| up.ready() == 3 && up.charged() == 900);
    let line = up.lines.recv_timeout(PATIENCE).unwrap();
    assert_eq!(line, format!("ready http://{}/v1", up.api), "all that was wished is ready");
}

#[test]
fn a_step_of_the_schedule_takes_one_away_before_it_begins_and_cuts_no_stream() {
    // Schedules know minutes; the step must be far enough for its lead.
    let step = (unix_seconds() + LEAD_SECONDS + 15).div_ceil(60) * 60;
    let clock = |at: u64| format!("{:02}:{:02}", at / 3600 % 24, at / 60 % 60);
    let (from, to) = (clock(step), clock(step + 3600));
    let window = format!("{{from: \"{from}\", to: \"{to}\", watts: 700}}");
    let up = Up::start(&documents(950, &window));
    up.until("three before", PATIENCE, |up| up.ready() == 3 && up.charged() == 900);
    let clients = Clients::start(&up.api, 6);
    let wait = Duration::from_secs(step.saturating_sub(unix_seconds() + LEAD_SECONDS + 2));
    sleep(wait);
    assert_eq!(up.charged(), 900, "it is kept until it has to go");
    up.until("one drains", PATIENCE, |up| up.ready() == 2);
    up.until("and is gone", PATIENCE, |up| up.charged() == 600);
    assert!(unix_seconds() < step, "before the step begins");
    assert!(up.log().contains("its schedule gives more at"), "{}", up.log());
    sleep(Duration::from_secs(step + 1 - unix_seconds()));
    up.until("the step is there", PATIENCE, |up| {
        up.metric("naru_power_budget_watts{budget=\"hall\"}") == Some(700)
    });
    assert_eq!((up.ready(), up.charged()), (2, 600));
    assert!(clients.stop() > 20, "answers came all the time");
}

#[test]
fn a_budget_that_is_not_there_is_refused() {
    let folder = TempDir::new().unwrap();
    let file: &Path = &folder.path().join("wish.yaml");
    fs::write(file, documents(700, "").replace("budget: hall", "budget: hell")).unwrap();
    let naru = env!("CARGO_BIN_EXE_naru");
    let output = Command::new(naru)
        .args(["up", "--data-dir"])
        .arg(folder.path().join("data"))
        .arg("--file")
        .arg(file)
        .env("NARU_WORKER", naru)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("spec.power.budget: there is no PowerBudget \"hell\""), "{said}");
}
