//! Two operators and two gateways, as they stand in a cluster: both halves of `Follow` together.
#![allow(clippy::unwrap_used)] // all of this is a test, also what is no #[test] function

use std::sync::Arc;
use std::time::{Duration, Instant};

use naru_controller::{Demand, Demands, Publisher};
use naru_gateway::{FollowConfig, Follower, Gateway, KeyRule, Limits, ops_router, serve};
use naru_protocol::{KeyDigest, ModelEndpoints, Snapshot, SnapshotVersion, TenantKey, TenantKeys};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(10);

/// One of the operators.
struct Operator {
    address: String,
    snapshots: watch::Sender<Arc<Snapshot>>,
    demand: Demands,
}

impl Operator {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (snapshots, published) = watch::channel(Arc::default());
        let publisher = Publisher::new(published);
        let demand = publisher.demands();
        tokio::spawn(publisher.serve(listener, std::future::pending()));
        Self { address, snapshots, demand }
    }

    fn publish(&self, epoch: u64, sequence: u64, keys: &[&str]) {
        self.snapshots.send_replace(Arc::new(snapshot(epoch, sequence, keys)));
    }

    fn steps_down(&self) {
        self.snapshots.send_replace(Arc::default());
    }

    /// Waits until so many requests wait for the model, over all gateways.
    async fn hears(&self, fact: &str, waiting: u64) {
        let mut demand = self.demand.clone();
        let sum = |demand: &Arc<Demand>| demand.values().map(|wanted| wanted.waiting).sum::<u64>();
        let comes = demand.wait_for(|demand| sum(demand) == waiting);
        let came = timeout(PATIENCE, comes).await.is_ok();
        assert!(came, "{fact}: {:?}", self.demand.borrow());
    }
}

/// A model that sleeps and a tenant with these keys.
fn snapshot(epoch: u64, sequence: u64, keys: &[&str]) -> Snapshot {
    let deployment = "default/m".to_owned();
    let model = ModelEndpoints { deployment, wakes: true, ..ModelEndpoints::default() };
    let key = |key: &&str| TenantKey {
        name: "k".into(),
        sha256: KeyDigest::of(key),
        expires_unix_seconds: None,
    };
    let keys = keys.iter().map(key).collect();
    Snapshot {
        version: SnapshotVersion { epoch, sequence },
        models: [("m".to_owned(), model)].into(),
        tenants: vec![TenantKeys { name: "saudi".into(), keys, concurrent_requests_max: None }],
    }
}

/// One of the gateways.
struct Door {
    address: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    _data_dir: TempDir,
    _stop: watch::Sender<Option<Duration>>,
}

impl Door {
    async fn open(operators: &[Operator; 2]) -> Self {
        let data_dir = TempDir::new().unwrap();
        let (follower, snapshots) = Follower::new(FollowConfig {
            operators: operators.iter().map(|operator| operator.address.clone()).collect(),
            name: "gateway".into(),
            data_dir: data_dir.path().to_owned(),
        });
        let gateway = Gateway::new(snapshots.clone(), KeyRule::Always, Limits::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stops) = watch::channel(None);
        let pages = ops_router(gateway.clone(), watch::channel(Ok(())).1);
        let router = gateway.router().merge(pages);
        tokio::spawn(serve(gateway.clone(), router, listener, stops));
        tokio::spawn(follower.run(gateway));
        Self { address, snapshots, _data_dir: data_dir, _stop: stop }
    }

    async fn serves(&self, fact: &str, epoch: u64, sequence: u64) {
        let version = SnapshotVersion { epoch, sequence };
        let mut snapshots = self.snapshots.clone();
        let comes = snapshots.wait_for(|snapshot| snapshot.version == version);
        let came = timeout(PATIENCE, comes).await.is_ok();
        assert!(came, "{fact}: it serves {:?}", self.snapshots.borrow().version);
    }

    /// Begins a request with this key.
    async fn ask(&self, line: &str, key: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let said = format!(
            "{line} HTTP/1.1\r\nhost: n\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(said.as_bytes()).await.unwrap();
        stream
    }

    async fn get(&self, path: &str, key: &str) -> String {
        let mut answer = String::new();
        let mut stream = self.ask(&format!("GET {path}"), key, "").await;
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn accepts(&self, key: &str) -> bool {
        self.get("/v1/models", key).await.starts_with("HTTP/1.1 200")
    }

    /// Waits until it was told something older than what it holds.
    async fn refuses_a_stale_one(&self) {
        let refused = "naru_gateway_snapshots_refused_total{reason=\"stale\"}";
        let comes = async {
            while !self.get("/metrics", "").await.contains(refused) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, comes).await.expect("it asks the stale one");
    }
}

#[tokio::test]
async fn a_fleet_hears_its_leader_and_is_heard() {
    let operators = [Operator::start().await, Operator::start().await];
    let doors = [Door::open(&operators).await, Door::open(&operators).await];
    operators[0].publish(1, 1, &["old", "new"]);
    for door in &doors {
        door.serves("the leader's first", 1, 1).await;
        assert!(door.accepts("old").await);
    }
    let revoked = Instant::now();
    operators[0].publish(1, 2, &["new"]);
    for door in &doors {
        while door.accepts("old").await {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(door.accepts("new").await);
    }
    let took = revoked.elapsed();
    assert!(took < Duration::from_secs(1), "a revoked key is dead within a second: {took:?}");

    let asking = "POST /v1/completions";
    let waiting = [
        doors[0].ask(asking, "new", "{\"model\":\"m\"}").await,
        doors[1].ask(asking, "new", "{\"model\":\"m\"}").await,
    ];
    operators[0].hears("one waits at each", 2).await;

    operators[1].publish(2, 1, &["new"]);
    operators[0].steps_down();
    for door in &doors {
        door.serves("the next leader's", 2, 1).await;
    }
    operators[1].hears("it learns who waits, though they began before it led", 2).await;
    operators[0].publish(1, 9, &["old", "new"]);
    operators[1].steps_down();
    for door in &doors {
        door.refuses_a_stale_one().await;
        door.serves("a leader that was, and thinks it is, is not obeyed", 2, 1).await;
        assert!(!door.accepts("old").await);
    }
    drop(waiting);
}
