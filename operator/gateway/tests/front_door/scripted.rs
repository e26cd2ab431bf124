//! A worker that says what it was told to say, and a gateway in front of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use naru_gateway::{Entrance, Gateway, KeyRule, Limits, ops_router, serve};
use naru_protocol::tls::Certificate;
use naru_protocol::{Endpoint, ModelEndpoints, Snapshot, SnapshotVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A small answer that is complete.
pub(crate) const ANSWER: &str =
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-from: worker\r\nconnection: close\r\n\r\nhello";

/// What a scripted worker does once it has said its part.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Then {
    /// Closes the connection.
    Close,
    /// Waits for the client to leave.
    Hold,
    /// Waits until it is told to, then ends a stream of events properly.
    Finish,
}

/// The head of an event stream and these events as its first chunks.
pub(crate) fn events(events: &[&str]) -> String {
    let mut text = String::from(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    for event in events {
        text += &format!("{:x}\r\n{event}\r\n", event.len());
    }
    text
}

/// A chat request for `model`, as bytes on the wire.
pub(crate) fn chat(model: &str) -> String {
    let body = format!("{{\"model\":\"{model}\"}}");
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: naru\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

pub(crate) fn endpoint(replica: &str, worker: &Worker) -> Endpoint {
    let address = worker.address.clone();
    Endpoint { replica: replica.into(), address, ready: true, draining: false }
}

/// A worker that answers every request with the same bytes.
pub(crate) struct Worker {
    address: String,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    left: AtomicUsize,
    finish: Notify,
}

impl Worker {
    pub(crate) async fn start(answer: &str, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Seen>::default();
        let (answer, shared) = (answer.to_owned(), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_one(stream, answer.clone(), then, shared.clone()));
            }
        });
        Self { address, seen, task }
    }

    /// What was asked, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// How many clients left while it held their answer.
    pub(crate) fn left(&self) -> usize {
        self.seen.left.load(Ordering::SeqCst)
    }

    pub(crate) fn finish(&self) {
        self.seen.finish.notify_waiters();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_one(mut stream: TcpStream, answer: String, then: Then, seen: Arc<Seen>) {
    let Some(request) = read_request(&mut stream).await else { return };
    seen.requests.lock().unwrap().push(request);
    stream.write_all(answer.as_bytes()).await.unwrap();
    match then {
        Then::Close => {}
        Then::Hold => {
            let mut rest = [0; 64];
            while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
            seen.left.fetch_add(1, Ordering::SeqCst);
        }
        Then::Finish => {
            seen.finish.notified().await;
            let last = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
            stream.write_all(last.as_bytes()).await.unwrap();
        }
    }
}

/// One request with a declared length, whole.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A gateway that listens, with the snapshot the test gives it.
pub(crate) struct Front {
    address: String,
    ops: String,
    snapshots: watch::Sender<Arc<Snapshot>>,
    stop: watch::Sender<Option<Duration>>,
    serving: Option<JoinHandle<()>>,
    _ready: watch::Sender<Result<(), String>>,
}

impl Front {
    pub(crate) async fn start(models: &[(&str, &[Endpoint])], limits: Limits) -> Self {
        Self::with(snapshot(1, models), KeyRule::OnceTenantsExist, limits).await
    }

    /// One that begins with this snapshot.
    pub(crate) async fn with(snapshot: Snapshot, keys: KeyRule, limits: Limits) -> Self {
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot));
        let gateway = Gateway::new(receiver, keys, limits).unwrap();
        Self::of(gateway, snapshots).await
    }

    /// One that speaks TLS.
    pub(crate) async fn over_tls(
        models: &[(&str, &[Endpoint])],
        limits: Limits,
        certificate: Certificate,
    ) -> Self {
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot(1, models)));
        let gateway = Gateway::new(receiver, KeyRule::OnceTenantsExist, limits).unwrap();
        Self::at(gateway, snapshots, Some(certificate)).await
    }

    /// The sockets of a gateway.
    pub(crate) async fn of(gateway: Gateway, snapshots: watch::Sender<Arc<Snapshot>>) -> Self {
        Self::at(gateway, snapshots, None).await
    }

    async fn at(
        gateway: Gateway,
        snapshots: watch::Sender<Arc<Snapshot>>,
        certificate: Option<Certificate>,
    ) -> Self {
        let (stop, stops) = watch::channel(None);
        let (ready, is_ready) = watch::channel(Ok(()));
        let [api, ops] = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let address = api.local_addr().unwrap().to_string();
        let ops_address = ops.local_addr().unwrap().to_string();
        let pages = ops_router(gateway.clone(), is_ready);
        tokio::spawn(serve(gateway.clone(), pages, ops, stops.clone()));
        let router = gateway.router();
        let api = Entrance::new(api, certificate);
        let serving = Some(tokio::spawn(serve(gateway, router, api, stops)));
        Self { address, ops: ops_address, snapshots, stop, serving, _ready: ready }
    }

    pub(crate) fn publish(&self, models: &[(&str, &[Endpoint])]) {
        let sequence = self.snapshots.borrow().version.sequence + 1;
        self.publish_snapshot(snapshot(sequence, models));
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// This, as the next snapshot.
    pub(crate) fn publish_snapshot(&self, mut snapshot: Snapshot) {
        snapshot.version.sequence = self.snapshots.borrow().version.sequence + 1;
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Waits until the metrics say this.
    pub(crate) async fn shows(&self, line: &str) {
        let comes = async {
            while !self.metrics().await.contains(line) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(10), comes).await;
        assert!(came.is_ok(), "{line} is not in {}", self.metrics().await);
    }

    /// A connection on which this has been said.
    pub(crate) async fn connect(&self, said: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a request and gives it time to reach a worker.
    pub(crate) async fn begin(&self, said: &str) -> TcpStream {
        let stream = self.connect(said).await;
        sleep(Duration::from_millis(100)).await;
        stream
    }

    /// Sends all of this and reads until the connection is closed.
    pub(crate) async fn send(&self, said: &str) -> Answer {
        Answer::read(&mut self.connect(said).await).await
    }

    pub(crate) async fn post(&self, body: &str) -> Answer {
        self.post_with("", body).await
    }

    /// `headers`: whole lines.
    pub(crate) async fn post_with(&self, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let said = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: naru\r\nconnection: close\r\n\
             {headers}content-length: {length}\r\n\r\n{body}"
        );
        self.send(&said).await
    }

    /// `headers`: whole lines.
    pub(crate) async fn get_with(&self, headers: &str, path: &str) -> Answer {
        let line = format!("GET {path} HTTP/1.1\r\n");
        self.send(&format!("{line}host: naru\r\nconnection: close\r\n{headers}\r\n")).await
    }

    /// The first bytes that come back, while the request is not complete yet.
    pub(crate) async fn head_of(&self, said: &str) -> String {
        let mut stream = self.connect(said).await;
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    pub(crate) async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(&self.ops).await.unwrap();
        let said = "GET /metrics HTTP/1.1\r\nhost: naru\r\nconnection: close\r\n\r\n";
        stream.write_all(said.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await.body
    }

    pub(crate) fn stop(&self, drain: Duration) {
        self.stop.send_replace(Some(drain));
    }

    pub(crate) async fn refuses_connections(&self) -> bool {
        TcpStream::connect(&self.address).await.is_err()
    }

    pub(crate) async fn ended(&mut self) {
        self.serving.take().unwrap().await.unwrap();
    }
}

pub(crate) fn snapshot(sequence: u64, models: &[(&str, &[Endpoint])]) -> Snapshot {
    let entry = |(name, endpoints): &(&str, &[Endpoint])| {
        let endpoints = endpoints.to_vec();
        let deployment = format!("default/{name}");
        (name.to_string(), ModelEndpoints { deployment, endpoints, ..ModelEndpoints::default() })
    };
    let version = SnapshotVersion { epoch: 1, sequence };
    Snapshot { version, models: models.iter().map(entry).collect(), tenants: vec![] }
}

/// An answer as it was on the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// It ended where its head said it would.
    pub(crate) is_complete: bool,
    head: String,
}

impl Answer {
    /// Reads until the answer is complete or the connection is closed.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Self {
        let mut bytes = Vec::new();
        loop {
            let answer = Self::parse(&String::from_utf8_lossy(&bytes));
            if answer.is_complete || matches!(stream.read_buf(&mut bytes).await, Ok(0) | Err(_)) {
                return answer;
            }
        }
    }

    fn parse(text: &str) -> Self {
        let Some((head, rest)) = text.split_once("\r\n\r\n") else {
            let (head, body) = (text.to_owned(), String::new());
            return Self { status: 0, body, is_complete: false, head };
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut answer =
            Self { status, body: rest.to_owned(), is_complete: false, head: head.to_owned() };
        if answer.header("transfer-encoding") == Some("chunked") {
            (answer.body, answer.is_complete) = unchunked(rest);
        } else if let Some(length) = answer.header("content-length") {
            answer.is_complete = rest.len() == length.parse::<usize>().unwrap();
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// The data of chunks, and whether the last one was there.
fn unchunked(mut text: &str) -> (String, bool) {
    let mut data = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        if size == 0 {
            return (data, true);
        }
        let Some(chunk) = rest.get(..size) else { break };
        data += chunk;
        text = rest.get(size + 2..).unwrap_or("");
    }
    (data, false)
}
