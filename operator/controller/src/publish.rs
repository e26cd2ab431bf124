//! Tells gateways what the loop published, and hears from them what clients want.
//!
//! ```text
//! loop ──► watch ──► Follow ──► every gateway       each change at once, whole
//! loop ◄── watch ◄── sum    ◄── every gateway       demand: who waits for what
//! ```
//!
//! Only the leader publishes. Another operator sends gateways away, so that they ask the next.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use naru_protocol::Snapshot;
use naru_protocol::control::v1::control_server::{Control, ControlServer};
use naru_protocol::control::v1::{self, GatewayReport};
use naru_protocol::tls::{self, Identity, Peer, Role};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::demand::{Demands, Reports};

/// The least time between two snapshots to one gateway: changes that come together go together.
const SNAPSHOT_GAP: Duration = Duration::from_millis(20);
/// How often gateways that fell silent are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How often a quiet gateway must show that it lives, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(5);
const PONG_WITHIN: Duration = Duration::from_secs(5);
/// Demand for 100,000 deployments is less.
const REPORT_BYTES_MAX: usize = 16 << 20;

/// The service that gateways follow. Clones are the same.
#[derive(Clone)]
pub struct Publisher {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    reports: Arc<Mutex<Reports>>,
    identity: Option<Arc<Identity>>,
}

impl Publisher {
    /// Publishes `snapshots`. One whose sequence is 0 is none: this operator does not lead, or has
    /// not seen everything yet, and sends gateways away.
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { snapshots, reports: Arc::new(Mutex::new(Reports::new())), identity: None }
    }

    /// The same, for gateways alone that prove to be such.
    #[must_use]
    pub fn with_identity(self, identity: Arc<Identity>) -> Self {
        Self { identity: Some(identity), ..self }
    }

    /// What clients want, over all gateways, as it changes.
    pub fn demands(&self) -> Demands {
        self.reports().subscribe()
    }

    /// Serves gateways on `listener` until `stop` is over: the one place that knows how.
    ///
    /// Errors: those of the listener.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), tonic::transport::Error> {
        let service = ControlServer::new(self.clone()).max_decoding_message_size(REPORT_BYTES_MAX);
        let serving = Server::builder()
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PONG_WITHIN))
            .add_service(service)
            .serve_with_incoming(tls::incoming(listener, self.identity.clone()));
        // Streams never end by themselves; gateways find another operator when this one goes.
        tokio::select! {
            served = serving => served,
            () = self.expire() => Ok(()),
            () = stop => Ok(()),
        }
    }

    async fn expire(&self) {
        loop {
            sleep(EXPIRE_EVERY).await;
            self.reports().expire(Instant::now());
        }
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        // Nothing panics while it is held, and each report replaces the one before.
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes reports for as long as they come.
    async fn hear(self, mut reports: Streaming<GatewayReport>) {
        loop {
            match reports.message().await {
                Ok(Some(report)) => self.reports().take(report, Instant::now()),
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(%status, "a gateway went away");
                    return;
                }
            }
        }
    }

    /// Sends each snapshot, until the gateway is gone or this operator publishes no more.
    async fn tell(mut self, gateway: mpsc::Sender<Result<v1::Snapshot, Status>>) {
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let is_published = is_published(&snapshot);
            let said = is_published.then(|| v1::Snapshot::from(&*snapshot));
            let sent = gateway.send(said.ok_or_else(not_the_leader)).await;
            if sent.is_err() || !is_published {
                return;
            }
            sleep(SNAPSHOT_GAP).await;
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { return },
                () = gateway.closed() => return,
            }
        }
    }
}

fn is_published(snapshot: &Snapshot) -> bool {
    snapshot.version.sequence > 0
}

fn not_the_leader() -> Status {
    Status::unavailable("this operator does not lead: ask another")
}

#[tonic::async_trait]
impl Control for Publisher {
    type FollowStream = ReceiverStream<Result<v1::Snapshot, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<GatewayReport>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let role = request.extensions().get::<Peer>().and_then(|peer| peer.0);
        if self.identity.is_some() && role != Some(Role::Gateway) {
            return Err(Status::permission_denied("only a gateway is told of endpoints and keys"));
        }
        if !is_published(&self.snapshots.borrow()) {
            return Err(not_the_leader());
        }
        let (snapshots, stream) = mpsc::channel(1);
        let (hears, tells) = (self.clone(), self.clone());
        tokio::spawn(async move {
            let hearing = tokio::spawn(hears.hear(request.into_inner()));
            tells.tell(snapshots).await;
            hearing.abort(); // who is told nothing any more is not heard either
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
