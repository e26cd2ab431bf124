//! Starts a worker and waits until it can do what the test wants.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Starting a worker and loading the small model, with room for a busy machine.
const READY_MAX: Duration = Duration::from_secs(60);
const EXIT_MAX: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// A running worker; it ends with the test, whatever becomes of that.
pub(crate) struct Worker {
    child: Child,
    _stdin: Option<ChildStdin>,
    pub(crate) http: String,
    pub(crate) control: String,
    pub(crate) ops: String,
}

/// The demo model. Fails the test where `make models` has not been run.
pub(crate) fn model() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let naru = variable("NARU_CACHE_DIR").map(PathBuf::from);
    let xdg = || variable("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("naru"));
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".cache/naru"));
    let cache = naru.or_else(xdg).or_else(home).expect("a home directory");
    let path = cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is missing: run `make models`", path.display());
    path
}

/// The command, with every address on a free port.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naru-worker"));
    command.args(["--listen", "127.0.0.1:0", "--exit-with-stdin"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("NARU_CACHE_DIR").env_remove("HF_TOKEN").env_remove("HF_ENDPOINT");
    command
}

/// Runs a worker that is expected to fail; its exit code and what it said.
pub(crate) fn fail(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.spawn().expect("the worker starts");
    let stdin = child.stdin.take();
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("UTF-8");
    let status = wait(&mut child);
    drop(stdin);
    (status.code(), said)
}

fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status;
        }
        assert!(start.elapsed() < EXIT_MAX, "the worker does not exit");
        std::thread::sleep(PAUSE);
    }
}

impl Worker {
    /// A worker of this test's own, ready to answer as model `m`.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::start_early(arguments).ready().await
    }

    /// The same, without a model: it only simulates.
    pub(crate) async fn simulate(uri: &str, arguments: &[&str]) -> Self {
        let arguments = [&["--backend", "sim"], arguments].concat();
        Self::spawn(uri, &arguments).ready().await
    }

    /// Itself, once it is ready.
    pub(crate) async fn ready(self) -> Self {
        let worker = self;
        let start = Instant::now();
        while worker.get("/readyz").await.0 != 200 {
            assert!(start.elapsed() < READY_MAX, "the worker does not get ready");
            tokio::time::sleep(PAUSE).await;
        }
        worker
    }

    /// The same, as soon as it has bound its addresses.
    pub(crate) fn start_early(arguments: &[&str]) -> Self {
        Self::spawn(model().to_str().expect("UTF-8"), arguments)
    }

    pub(crate) fn spawn(model: &str, arguments: &[&str]) -> Self {
        let mut command = command(&["--model", model, "--served-name", "m"]);
        let mut child = command.args(arguments).stderr(Stdio::null()).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let line: Value = serde_json::from_str(&line).expect("one JSON object on standard output");
        let url = |name: &str| line[name].as_str().expect("an address").to_owned();
        let (http, control, ops) = (url("http"), url("control"), url("ops"));
        let stdin = child.stdin.take();
        Self { child, _stdin: stdin, http, control, ops }
    }

    /// One worker for every test that leaves it as it was.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: tokio::sync::OnceCell<Worker> = tokio::sync::OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(&["--max-body", "1Mi"])).await
    }

    pub(crate) fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status().expect("a shell");
        assert!(status.success(), "{command}");
    }

    /// Closes the worker's standard input, as the death of its parent does.
    pub(crate) fn close_stdin(&mut self) {
        self._stdin = None;
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        wait(&mut self.child).code()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let at = if path.starts_with("/v1") { &self.http } else { &self.ops };
        let response = client().get(format!("{at}{path}")).send().await;
        let response = response.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let request = client().post(format!("{}{path}", self.http)).body(body.to_owned());
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).expect("JSON"))
    }

    /// The data of every event of a streamed answer.
    pub(crate) async fn stream(&self, path: &str, body: &str) -> Vec<String> {
        let request = client().post(format!("{}{path}", self.http)).body(body.to_owned());
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
        let text = response.text().await.expect("a whole stream");
        let events = text.split("\n\n").filter(|event| !event.is_empty());
        events.map(|event| event.strip_prefix("data: ").expect("data").to_owned()).collect()
    }

    /// The value of a metric; labels are part of its name.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.expect("a metric of that name").parse().expect("a number")
    }

    /// Waits until a metric without labels has reached `value`.
    pub(crate) async fn until(&self, name: &str, value: f64) {
        let start = Instant::now();
        while self.metric(name).await < value {
            assert!(start.elapsed() < READY_MAX, "{name} does not reach {value}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until nothing is computed or queued any more.
    pub(crate) async fn settle(&self) {
        let start = Instant::now();
        while self.metric("naru_requests_running").await > 0.0
            || self.metric("naru_kv_cache_usage_ratio").await > 0.0
        {
            assert!(start.elapsed() < EXIT_MAX, "something goes on running");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client; the process needs one cryptography provider even for plain HTTP.
pub(crate) fn client() -> reqwest::Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        rustls::crypto::ring::default_provider().install_default().expect("nobody else did");
    });
    // Each test has its own runtime, and connections belong to one.
    reqwest::Client::builder().no_proxy().build().expect("a client")
}
