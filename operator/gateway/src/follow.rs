//! Following the operator: its snapshots in, reports of demand out, for as long as this runs.
//!
//! ```text
//! resolve ─► connect ─► Follow ─► snapshot ─► newer than what is held? ─► served, then to disk
//!    ▲                     │                          └─ no: a stale leader, leave it
//!    └── next address ◄────┴── not the leader, or gone
//! ```

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use naru_protocol::Snapshot;
use naru_protocol::control::v1::control_client::ControlClient;
use naru_protocol::control::v1::{self, GatewayReport};
use naru_protocol::tls::{Alpn, Connector, Identity, Role};
use tokio::net::lookup_host;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::api::Gateway;
use crate::held::{Held, Offered};
use crate::store::Store;

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an operator that was reached may take for its first snapshot.
const FIRST_SNAPSHOT: Duration = Duration::from_secs(5);
/// How often a quiet operator must show that it lives, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_WITHIN: Duration = Duration::from_secs(5);
/// The wait after every address was tried in vain, doubled each time, less up to half by chance.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// A stream that lasted this long was a good one: waiting begins anew.
const GOOD: Duration = Duration::from_secs(5);
/// How often demand is reported though nothing is urgent, and the least time between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(5);
const REPORT_GAP: Duration = Duration::from_millis(10);
/// The least time between two writes to disk; snapshots between them are not written.
const WRITE_GAP: Duration = Duration::from_millis(200);
/// 10,000 models with three replicas each take about 5 MiB.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// Whom to follow, and as whom.
#[derive(Clone, Debug)]
pub struct FollowConfig {
    /// `HOST:PORT` of operators; a name is resolved again at each attempt, to all its addresses.
    pub operators: Vec<String>,
    /// How this gateway calls itself; made unique for each run.
    pub name: String,
    /// Folder in which the last snapshot is kept.
    pub data_dir: PathBuf,
}

/// Follows an operator. Made before the gateway, whose snapshots it publishes.
pub struct Follower {
    config: FollowConfig,
    held: Held,
    store: Store,
}

/// Why an attempt at one operator ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("connecting")]
    Connect(#[source] tonic::transport::Error),
    #[error("no snapshot came in time")]
    Silent,
    #[error("it ended the stream")]
    Closed,
    #[error("it answered {0}")]
    Status(tonic::Code, #[source] Box<tonic::Status>),
    #[error("it sent a snapshot that breaks a rule")]
    Invalid(#[source] naru_protocol::InvalidSnapshot),
    #[error("it sent an older snapshot than the one that is held: its leader is not the last")]
    Stale,
}

impl Follower {
    /// Begins with the snapshot that an earlier run left on disk, if it left a good one.
    ///
    /// Returns what is to be served, too.
    pub fn new(config: FollowConfig) -> (Self, watch::Receiver<Arc<Snapshot>>) {
        let store = Store::new(config.data_dir.clone());
        let (snapshots, receiver) = watch::channel(Arc::default());
        let held = Held::new(snapshots);
        (Self { config, held, store }, receiver)
    }

    /// Follows for ever. `gateway` is the one that serves what this publishes.
    pub async fn run(self, gateway: Gateway) {
        let Self { config, held, store } = self;
        load(&store, &held, &gateway).await;
        let writer = tokio::spawn(write(store, held.subscribe(), gateway.clone()));
        let following = Following { id: unique(&config.name), held, gateway };
        following.run(&config.operators).await;
        writer.abort();
    }
}

/// Takes what is on disk.
async fn load(store: &Store, held: &Held, gateway: &Gateway) {
    let reading = store.clone();
    match tokio::task::spawn_blocking(move || reading.load()).await {
        Ok(Ok(Some((snapshot, age)))) => {
            let (version, age_seconds) = (snapshot.version, age.as_secs());
            tracing::info!(?version, age_seconds, "serving the snapshot of an earlier run");
            held.offer(snapshot);
            gateway.freshness().is_past(age);
        }
        Ok(Ok(None)) => gateway.freshness().is_past(Duration::ZERO),
        Ok(Err(error)) => {
            gateway.freshness().is_past(Duration::ZERO);
            let source = source_of(&error);
            tracing::warn!(%error, source, "starting without the snapshot of an earlier run");
        }
        Err(error) => tracing::error!(%error, "reading the snapshot of an earlier run"),
    }
}

/// Keeps the disk at the last snapshot. What is served never waits for it.
async fn write(store: Store, mut snapshots: watch::Receiver<Arc<Snapshot>>, gateway: Gateway) {
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        let writing = store.clone();
        match tokio::task::spawn_blocking(move || writing.save(&snapshot)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                gateway.metrics().snapshot_write_failed();
                let source = source_of(&error);
                tracing::error!(%error, source, "the last snapshot is not on disk");
            }
            Err(error) => tracing::error!(%error, "writing the last snapshot"),
        }
        sleep(WRITE_GAP).await;
    }
}

struct Following {
    id: String,
    held: Held,
    gateway: Gateway,
}

impl Following {
    async fn run(&self, operators: &[String]) {
        let mut wait = RETRY_MIN;
        loop {
            for address in resolve(operators).await {
                let begun = Instant::now();
                let ended = self.follow(address).await;
                self.gateway.freshness().is_past(Duration::ZERO);
                self.gateway.metrics().operator_connected(false);
                self.tell(address, &ended);
                if begun.elapsed() > GOOD {
                    wait = RETRY_MIN;
                }
            }
            sleep(wait.mul_f64(1.0 - chance() / 2.0)).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn tell(&self, address: SocketAddr, ended: &Ended) {
        let source = source_of(ended);
        match ended {
            // One of two operators always answers so.
            Ended::Status(tonic::Code::Unavailable | tonic::Code::FailedPrecondition, _) => {
                tracing::debug!(%address, %ended, source, "not following this operator");
            }
            Ended::Stale => {
                self.gateway.metrics().snapshot_refused("stale");
                tracing::warn!(%address, %ended, "not following this operator");
            }
            Ended::Invalid(_) => {
                self.gateway.metrics().snapshot_refused("invalid");
                tracing::error!(%address, %ended, source, "not following this operator");
            }
            _ => tracing::warn!(%address, %ended, source, "not following this operator"),
        }
    }

    /// Follows one operator until there is a reason not to.
    async fn follow(&self, address: SocketAddr) -> Ended {
        match self.try_follow(address).await {
            Ok(()) => Ended::Closed,
            Err(ended) => ended,
        }
    }

    async fn try_follow(&self, address: SocketAddr) -> Result<(), Ended> {
        let status = |status: tonic::Status| Ended::Status(status.code(), Box::new(status));
        let channel = connect(address, self.gateway.identity().cloned());
        let channel = channel.await.map_err(Ended::Connect)?;
        let mut client = ControlClient::new(channel).max_decoding_message_size(SNAPSHOT_BYTES_MAX);
        let (reports, outgoing) = mpsc::channel(1);
        let _reporting = Task(tokio::spawn(report(self.id.clone(), self.gateway.clone(), reports)));
        let late = |_| Ended::Silent;
        let begin = client.follow(ReceiverStream::new(outgoing));
        let answer = timeout(FIRST_SNAPSHOT, begin).await.map_err(late)?.map_err(status)?;
        let mut snapshots = answer.into_inner();
        let first = timeout(FIRST_SNAPSHOT, snapshots.message()).await.map_err(late)?;
        let mut next = first.map_err(status)?;
        tracing::info!(%address, "following this operator");
        while let Some(message) = next {
            self.take(message)?;
            next = snapshots.message().await.map_err(status)?;
        }
        Ok(())
    }

    fn take(&self, message: v1::Snapshot) -> Result<(), Ended> {
        let snapshot = Snapshot::try_from(message).map_err(Ended::Invalid)?;
        let version = snapshot.version;
        if self.held.offer(snapshot) == Offered::Stale {
            return Err(Ended::Stale);
        }
        tracing::debug!(?version, "a snapshot");
        self.gateway.freshness().is_present();
        self.gateway.metrics().operator_connected(true);
        Ok(())
    }
}

/// Ends a task when it is dropped.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A channel to one operator: the one place that knows how they are reached.
async fn connect(
    address: SocketAddr,
    identity: Option<Arc<Identity>>,
) -> Result<Channel, tonic::transport::Error> {
    let connector =
        Connector { identity, server: Role::Operator, alpn: Alpn::Http2, connect: CONNECT };
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

/// Reports at once, whenever it is urgent, and every few seconds.
async fn report(id: String, gateway: Gateway, reports: mpsc::Sender<GatewayReport>) {
    loop {
        let held = Some(gateway.snapshot().version).filter(|version| *version != <_>::default());
        let demand = gateway.demand().report();
        let report =
            GatewayReport { gateway: id.clone(), held: held.map(v1::Version::from), demand };
        if reports.send(report).await.is_err() {
            return;
        }
        sleep(REPORT_GAP).await;
        // Either way it is time.
        let _ = timeout(REPORT_EVERY, gateway.demand().urgent()).await;
    }
}

/// Every address of every name, in a new order each time so that no operator is always first.
async fn resolve(operators: &[String]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for name in operators {
        match lookup_host(name).await {
            Ok(found) => {
                for address in found {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
            }
            Err(error) => tracing::warn!(operator = name, %error, "resolving"),
        }
    }
    let count = addresses.len();
    let turn = (chance() * count as f64) as usize;
    addresses.rotate_left(turn.min(count));
    addresses
}

/// From 0 to 1. The standard library seeds its hash maps from the operating system's randomness.
fn chance() -> f64 {
    let random = RandomState::new().hash_one(0);
    random as f64 / u64::MAX as f64
}

fn unique(name: &str) -> String {
    format!("{name}-{:08x}", RandomState::new().hash_one(0) as u32)
}

/// What caused an error, in words.
fn source_of(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        if !text.is_empty() {
            text += ": ";
        }
        text += &cause.to_string();
        source = cause.source();
    }
    text
}
