//! Two operators and two gateways: whom gateways obey, and whom they tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use naru_controller::{Demand, Demands, Publisher};
use naru_gateway::KeyRule;
use naru_protocol::{KeyDigest, ModelEndpoints, Snapshot, SnapshotVersion, TenantKey, TenantKeys};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::door::{Door, listen};

const PATIENCE: Duration = Duration::from_secs(10);

/// One of the operators.
struct Operator {
    address: String,
    snapshots: watch::Sender<Arc<Snapshot>>,
    demand: Demands,
}

impl Operator {
    async fn start() -> Self {
        let (listener, address) = listen().await;
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

async fn open(operators: &[Operator; 2]) -> Door {
    let operators = operators.iter().map(|operator| operator.address.clone()).collect();
    Door::open(operators, KeyRule::Always, None).await
}

async fn serves(door: &Door, fact: &str, epoch: u64, sequence: u64) {
    let version = SnapshotVersion { epoch, sequence };
    let comes = door.serves(PATIENCE, |snapshot| snapshot.version == version).await;
    assert!(comes, "{fact}: it serves {:?}", door.snapshots.borrow().version);
}

async fn accepts(door: &Door, key: &str) -> bool {
    let answer = door.answer("GET /v1/models", &bearer(key), "").await;
    answer.starts_with("HTTP/1.1 200")
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

/// Waits until it was told something older than what it holds.
async fn refuses_a_stale_one(door: &Door) {
    let refused = "naru_gateway_snapshots_refused_total{reason=\"stale\"}";
    let comes = async {
        while !door.answer("GET /metrics", "", "").await.contains(refused) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, comes).await.expect("it asks the stale one");
}

#[tokio::test]
async fn a_fleet_hears_its_leader_and_is_heard() {
    let operators = [Operator::start().await, Operator::start().await];
    let doors = [open(&operators).await, open(&operators).await];
    operators[0].publish(1, 1, &["old", "new"]);
    for door in &doors {
        serves(door, "the leader's first", 1, 1).await;
        assert!(accepts(door, "old").await);
    }
    let revoked = Instant::now();
    operators[0].publish(1, 2, &["new"]);
    for door in &doors {
        while accepts(door, "old").await {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(accepts(door, "new").await);
    }
    let took = revoked.elapsed();
    assert!(took < Duration::from_secs(1), "a revoked key is dead within a second: {took:?}");

    let asking = "POST /v1/completions";
    let waiting = [
        doors[0].ask(asking, &bearer("new"), "{\"model\":\"m\"}").await,
        doors[1].ask(asking, &bearer("new"), "{\"model\":\"m\"}").await,
    ];
    operators[0].hears("one waits at each", 2).await;

    operators[1].publish(2, 1, &["new"]);
    operators[0].steps_down();
    for door in &doors {
        serves(door, "the next leader's", 2, 1).await;
    }
    operators[1].hears("it learns who waits, though they began before it led", 2).await;
    operators[0].publish(1, 9, &["old", "new"]);
    operators[1].steps_down();
    for door in &doors {
        refuses_a_stale_one(door).await;
        serves(door, "a leader that was, and thinks it is, is not obeyed", 2, 1).await;
        assert!(!accepts(door, "old").await);
    }
    drop(waiting);
}
