//! The gRPC that an operator uses: `Status` and `Drain`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use naru_protocol::worker::v1::worker_server::{Worker, WorkerServer};
use naru_protocol::worker::v1::{DrainReply, DrainRequest, StatusReport, StatusRequest};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::member::Member;

/// A report comes at least this often.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

struct Control {
    member: Arc<Member>,
}

type Reports = Pin<Box<dyn Stream<Item = Result<StatusReport, Status>> + Send>>;

#[tonic::async_trait]
impl Worker for Control {
    type StatusStream = Reports;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<Reports>, Status> {
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
        let running = self.member.report().running;
        let seconds = request.into_inner().seconds;
        tracing::info!(seconds, running, "asked to drain");
        self.member.drain((seconds > 0).then_some(seconds));
        Ok(Response::new(DrainReply { running }))
    }
}

/// Serves until the process ends.
pub(crate) async fn serve(
    listener: TcpListener,
    member: Arc<Member>,
) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .add_service(WorkerServer::new(Control { member }))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
}
