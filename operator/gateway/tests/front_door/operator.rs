//! An operator that says what it was told to say, and remembers what gateways report.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use naru_protocol::Snapshot;
use naru_protocol::control::v1::control_server::{Control, ControlServer};
use naru_protocol::control::v1::{self, GatewayReport};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// One operator; it ends, connections and all, when this is dropped.
pub(crate) struct Operator {
    pub(crate) address: String,
    /// `None`: it does not lead.
    snapshots: watch::Sender<Option<v1::Snapshot>>,
    reports: Arc<Mutex<Vec<GatewayReport>>>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Service {
    snapshots: watch::Receiver<Option<v1::Snapshot>>,
    reports: Arc<Mutex<Vec<GatewayReport>>>,
}

impl Operator {
    /// One that leads and publishes this.
    pub(crate) async fn leader(snapshot: &Snapshot) -> Self {
        Self::start("127.0.0.1:0", Some(snapshot.into())).await
    }

    /// One that sends gateways away.
    pub(crate) async fn other() -> Self {
        Self::start("127.0.0.1:0", None).await
    }

    pub(crate) async fn start(address: &str, snapshot: Option<v1::Snapshot>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (snapshots, published) = watch::channel(snapshot);
        let reports = Arc::<Mutex<Vec<_>>>::default();
        let service = Service { snapshots: published, reports: reports.clone() };
        let serving = tokio::spawn(async move {
            let server = Server::builder().add_service(ControlServer::new(service));
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, snapshots, reports, serving }
    }

    pub(crate) fn publish(&self, snapshot: impl Into<v1::Snapshot>) {
        self.snapshots.send_replace(Some(snapshot.into()));
    }

    /// Sends its gateways away from now on.
    pub(crate) fn steps_down(&self) {
        self.snapshots.send_replace(None);
    }

    /// Waits for a report of which this is true.
    pub(crate) async fn hears(&self, fact: &str, is: impl Fn(&GatewayReport) -> bool) {
        let comes = async {
            while !self.reports.lock().unwrap().iter().any(&is) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let came = timeout(Duration::from_secs(10), comes).await.is_ok();
        assert!(came, "{fact}: {:?}", self.reports.lock().unwrap());
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tonic::async_trait]
impl Control for Service {
    type FollowStream = ReceiverStream<Result<v1::Snapshot, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<GatewayReport>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let Service { mut snapshots, reports } = self.clone();
        let (gateway, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut incoming = request.into_inner();
            while let Ok(Some(report)) = incoming.message().await {
                reports.lock().unwrap().push(report);
            }
        });
        tokio::spawn(async move {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                let is_leading = snapshot.is_some();
                let said = snapshot.ok_or_else(|| Status::unavailable("ask another"));
                let is_gone = gateway.send(said).await.is_err();
                let ended = async { snapshots.changed().await.is_err() };
                if is_gone || !is_leading || ended.await {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
