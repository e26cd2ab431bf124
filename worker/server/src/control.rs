//! The gRPC that an operator uses: `Status` and `Drain`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use naru_protocol::tls::{self, Identity, Peer, Role};
use naru_protocol::worker::v1::worker_server::{Worker, WorkerServer};
use naru_protocol::worker::v1::{DrainReply, DrainRequest, StatusReport, StatusRequest};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::member::Member;

/// A report comes at least this often.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

struct Control {
    member: Arc<Member>,
    asks_for_proof: bool,
}

impl Control {
    /// Errors: whoever asks has not proven to be one of `roles`.
    fn admit<T>(&self, request: &Request<T>, roles: &[Role]) -> Result<(), Status> {
        let role = request.extensions().get::<Peer>().and_then(|peer| peer.0);
        match role {
            Some(role) if roles.contains(&role) => Ok(()),
            None if !self.asks_for_proof => Ok(()),
            Some(role) => Err(Status::permission_denied(format!("a {role} may not ask for this"))),
            None => Err(Status::permission_denied("this takes a certificate")),
        }
    }
}

type Reports = Pin<Box<dyn Stream<Item = Result<StatusReport, Status>> + Send>>;

#[tonic::async_trait]
impl Worker for Control {
    type StatusStream = Reports;

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<Reports>, Status> {
        self.admit(&request, &[Role::Operator, Role::Gateway])?;
        let member = Arc::clone(&self.member);
        let changes = member.changes();
        let reports = futures::stream::unfold((member, changes, true), |state| async move {
            let (member, mut changes, first) = state;
            if !first {
                // Elapsed or changed: both are a reason to report.
                let _ = tokio::time::timeout(REPORT_INTERVAL, changes.next_phase()).await;
            }
            Some((Ok(member.report()), (member, changes, false)))
        });
        Ok(Response::new(Box::pin(reports)))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        self.admit(&request, &[Role::Operator])?;
        let running = self.member.report().running;
        let seconds = request.into_inner().seconds;
        tracing::info!(seconds, running, "asked to drain");
        self.member.drain((seconds > 0).then_some(seconds));
        Ok(Response::new(DrainReply { running }))
    }
}

/// Serves until the process ends; with an identity, those who prove theirs.
pub(crate) async fn serve(
    listener: TcpListener,
    member: Arc<Member>,
    identity: Option<Arc<Identity>>,
) -> Result<(), tonic::transport::Error> {
    let control = Control { member, asks_for_proof: identity.is_some() };
    tonic::transport::Server::builder()
        .add_service(WorkerServer::new(control))
        .serve_with_incoming(tls::incoming(listener, identity))
        .await
}
