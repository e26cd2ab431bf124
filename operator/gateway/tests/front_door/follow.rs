//! A gateway that follows an operator, and goes on without one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use naru_gateway::{FollowConfig, Follower, Gateway, KeyRule, Limits};
use naru_protocol::control::v1;
use naru_protocol::{Snapshot, SnapshotVersion};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::operator::Operator;
use crate::scripted::{ANSWER, Front, Then, Worker, endpoint, snapshot};

/// A gateway with its own sockets, and the task by which it follows.
struct Following {
    front: Front,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    task: JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(operators: &[&Operator], data_dir: &Path) -> Following {
    let config = FollowConfig {
        operators: operators.iter().map(|operator| operator.address.clone()).collect(),
        name: "gateway".into(),
        data_dir: data_dir.to_owned(),
    };
    let (follower, snapshots) = Follower::new(config);
    let rule = KeyRule::OnceTenantsExist;
    let gateway = Gateway::new(snapshots.clone(), rule, Limits::default()).unwrap();
    let front = Front::of(gateway.clone(), watch::channel(Arc::default()).0).await;
    let task = tokio::spawn(follower.run(gateway));
    Following { front, snapshots, task }
}

impl Following {
    /// Waits until this snapshot is served by.
    async fn serves(&self, fact: &str, epoch: u64, sequence: u64) {
        let version = SnapshotVersion { epoch, sequence };
        let mut snapshots = self.snapshots.clone();
        let comes = snapshots.wait_for(|snapshot| snapshot.version == version);
        let came = timeout(Duration::from_secs(10), comes).await.is_ok();
        assert!(came, "{fact}: it serves {:?}", self.snapshots.borrow().version);
    }
}

fn numbered(epoch: u64, sequence: u64) -> Snapshot {
    Snapshot { version: SnapshotVersion { epoch, sequence }, ..Snapshot::default() }
}

/// Waits until this snapshot is on disk.
async fn keeps(data_dir: &Path, epoch: u64, sequence: u64) {
    let path = data_dir.join("snapshot.json");
    let version = SnapshotVersion { epoch, sequence };
    let is_there = || {
        let kept = serde_json::from_slice::<Snapshot>(&fs::read(&path).ok()?).ok()?;
        (kept.version == version).then_some(())
    };
    let comes = async {
        while is_there().is_none() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), comes).await.expect("it is kept");
}

#[tokio::test]
async fn snapshots_are_served_by_and_kept() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let folder = TempDir::new().unwrap();
    let operator = Operator::leader(&snapshot(5, &[("m", &[endpoint("a", &worker)])])).await;
    let gateway = follow(&[&operator], folder.path()).await;
    gateway.serves("the first comes at once", 1, 5).await;
    assert_eq!(gateway.front.post("{\"model\":\"m\"}").await.status, 200);
    operator.publish(&snapshot(6, &[]));
    gateway.serves("each change follows", 1, 6).await;
    assert_eq!(gateway.front.post("{\"model\":\"m\"}").await.status, 404);
    keeps(folder.path(), 1, 6).await;
    let mode = fs::metadata(folder.path().join("snapshot.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "digests of keys are for the gateway alone");
    gateway.front.shows("naru_gateway_snapshot_sequence 6").await;
    gateway.front.shows("naru_gateway_snapshot_age_seconds 0\n").await;
    gateway.front.shows("naru_gateway_operator_connected 1").await;
}

#[tokio::test]
async fn it_serves_on_when_the_operator_is_gone_and_starts_without_one() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let folder = TempDir::new().unwrap();
    let operator = Operator::leader(&snapshot(5, &[("m", &[endpoint("a", &worker)])])).await;
    let gateway = follow(&[&operator], folder.path()).await;
    keeps(folder.path(), 1, 5).await;
    let address = operator.address.clone();
    drop(operator);
    gateway.front.shows("naru_gateway_operator_connected 0").await;
    assert_eq!(gateway.front.post("{\"model\":\"m\"}").await.status, 200);
    let page = gateway.front.metrics().await;
    assert!(!page.contains("naru_gateway_snapshot_age_seconds 0\n"), "it ages: {page}");
    drop(gateway);
    let gone = Operator::other().await;
    let restarted = follow(&[&gone], folder.path()).await;
    restarted.serves("what is on disk", 1, 5).await;
    assert_eq!(restarted.front.post("{\"model\":\"m\"}").await.status, 200);
    drop(restarted);
    let back = Operator::start(&address, Some((&numbered(2, 1)).into())).await;
    let again = follow(&[&back], folder.path()).await;
    again.serves("a later leader's", 2, 1).await;
}

#[tokio::test]
async fn an_operator_that_comes_back_is_followed_again() {
    let folder = TempDir::new().unwrap();
    let operator = Operator::leader(&numbered(1, 1)).await;
    let gateway = follow(&[&operator], folder.path()).await;
    gateway.serves("the first", 1, 1).await;
    let address = operator.address.clone();
    drop(operator);
    gateway.front.shows("naru_gateway_operator_connected 0").await;
    let _back = Operator::start(&address, Some((&numbered(2, 1)).into())).await;
    gateway.serves("the next leader's", 2, 1).await;
}

#[tokio::test]
async fn older_snapshots_are_refused() {
    let folder = TempDir::new().unwrap();
    let stale = Operator::leader(&numbered(3, 9)).await;
    let gateway = follow(&[&stale], folder.path()).await;
    keeps(folder.path(), 3, 9).await;
    stale.publish(&numbered(2, 100));
    gateway.front.shows("naru_gateway_snapshots_refused_total{reason=\"stale\"}").await;
    gateway.serves("the later one still", 3, 9).await;
    drop(gateway);
    let restarted = follow(&[&stale], folder.path()).await;
    restarted.front.shows("naru_gateway_snapshots_refused_total{reason=\"stale\"}").await;
    restarted.serves("not older than what is on disk", 3, 9).await;
    let mut nonsense = v1::Snapshot::from(&numbered(4, 1));
    nonsense.tenants = vec![v1::Tenant::default()];
    stale.publish(nonsense);
    restarted.front.shows("naru_gateway_snapshots_refused_total{reason=\"invalid\"}").await;
    restarted.serves("and not nonsense", 3, 9).await;
    stale.publish(&numbered(4, 2));
    restarted.serves("what is sound again is followed", 4, 2).await;
}

#[tokio::test]
async fn of_two_operators_the_leader_is_found() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (Operator::other().await, Operator::leader(&numbered(1, 1)).await);
    let gateway = follow(&[&first, &second], folder.path()).await;
    gateway.serves("the second leads", 1, 1).await;
    first.publish(&numbered(2, 1));
    second.steps_down();
    gateway.serves("now the first", 2, 1).await;
}

#[tokio::test]
async fn a_file_that_is_broken_is_no_reason_to_fail() {
    let folder = TempDir::new().unwrap();
    for nonsense in ["", "{", "{\"version\":{\"epoch\":9,\"sequence\":9}}", "[1,2]"] {
        fs::write(folder.path().join("snapshot.json"), nonsense).unwrap();
        let operator = Operator::leader(&numbered(1, 1)).await;
        let gateway = follow(&[&operator], folder.path()).await;
        gateway.serves(nonsense, 1, 1).await;
    }
}

#[tokio::test]
async fn who_waits_is_reported_at_once() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let folder = TempDir::new().unwrap();
    let mut asleep = snapshot(1, &[("m", &[])]);
    asleep.models.get_mut("m").unwrap().wakes = true;
    let operator = Operator::leader(&asleep).await;
    let gateway = follow(&[&operator], folder.path()).await;
    gateway.serves("a model that sleeps", 1, 1).await;
    operator.hears("it follows", |report| report.gateway.starts_with("gateway-")).await;
    let (answer, ()) = tokio::join!(gateway.front.post("{\"model\":\"m\"}"), async {
        // The test waits no longer than for a few seconds, an ordinary report comes every five.
        let waits = |report: &v1::GatewayReport| {
            let of = report.demand.first().map(|demand| (&*demand.deployment, demand.waiting));
            of == Some(("default/m", 1))
        };
        timeout(Duration::from_secs(3), operator.hears("it waits", waits)).await.expect("urgent");
        operator.publish(&snapshot(2, &[("m", &[endpoint("a", &worker)])]));
    });
    assert_eq!(answer.status, 200);
    operator
        .hears("it holds the second", |report| {
            report.held.is_some_and(|held| (held.epoch, held.sequence) == (1, 2))
        })
        .await;
}
