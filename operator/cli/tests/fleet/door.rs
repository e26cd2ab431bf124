//! A gateway in this process, and what is asked of it.

use std::sync::Arc;
use std::time::Duration;

use naru_gateway::{FollowConfig, Follower, Gateway, KeyRule, Limits, ops_router, serve};
use naru_protocol::Snapshot;
use naru_protocol::tls::Identity;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// A gateway that follows operators.
pub(crate) struct Door {
    address: String,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    _data_dir: TempDir,
    _stop: watch::Sender<Option<Duration>>,
}

impl Door {
    pub(crate) async fn open(
        operators: Vec<String>,
        keys: KeyRule,
        identity: Option<Arc<Identity>>,
    ) -> Self {
        let data_dir = TempDir::new().unwrap();
        let (name, folder) = ("gateway".into(), data_dir.path().to_owned());
        let (follower, snapshots) =
            Follower::new(FollowConfig { operators, name, data_dir: folder });
        let (limits, published) = (Limits::default(), snapshots.clone());
        let gateway = Gateway::with_identity(published, keys, limits, identity).unwrap();
        let (listener, address) = listen().await;
        let (stop, stops) = watch::channel(None);
        let pages = ops_router(gateway.clone(), watch::channel(Ok(())).1);
        let router = gateway.router().merge(pages);
        tokio::spawn(serve(gateway.clone(), router, listener, stops));
        tokio::spawn(follower.run(gateway));
        Self { address, snapshots, _data_dir: data_dir, _stop: stop }
    }

    /// Whether it serves a snapshot of which this is true, in time.
    pub(crate) async fn serves(&self, within: Duration, what: impl Fn(&Snapshot) -> bool) -> bool {
        let mut snapshots = self.snapshots.clone();
        timeout(within, snapshots.wait_for(|snapshot| what(snapshot))).await.is_ok()
    }

    /// Begins a request.
    pub(crate) async fn ask(&self, line: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let said = format!(
            "{line} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n\
             {body}",
            body.len()
        );
        stream.write_all(said.as_bytes()).await.unwrap();
        stream
    }

    /// The whole answer to a request.
    pub(crate) async fn answer(&self, line: &str, headers: &str, body: &str) -> String {
        let mut answer = String::new();
        self.ask(line, headers, body).await.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// A free address, listened on.
pub(crate) async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}
