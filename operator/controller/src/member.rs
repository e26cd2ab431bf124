//! The gRPC client of one member: its reports for as long as it lives, and orders to it.

use std::sync::Arc;
use std::time::Duration;

use naru_plan::{Millis, WeightsFault};
use naru_protocol::tls::{Alpn, Connector, Identity, Role};
use naru_protocol::worker::v1::worker_client::WorkerClient;
use naru_protocol::worker::v1::{DrainRequest, StatusReport, StatusRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// Orders a member has not been given yet; there are never more than a few.
pub(crate) const ORDERS_MAX: usize = 8;
/// The wait between two attempts at a member's control port.
const RECONNECT: Duration = Duration::from_millis(200);
/// How long one attempt, or one order, may take.
const CALL: Duration = Duration::from_secs(5);
/// How often a quiet member must show that it lives, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// What a member can be told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Finish what runs within this time, then end.
    Drain(Millis),
}

/// What was heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It reported.
    Report(Box<StatusReport>),
    /// It cannot be heard.
    Silent,
}

/// What a member says is wrong with weights; what it does not say means that they are not there.
pub(crate) fn weights_fault(told: naru_protocol::worker::v1::WeightsFault) -> WeightsFault {
    use naru_protocol::worker::v1::WeightsFault as Told;
    match told {
        Told::Unspecified | Told::Missing => WeightsFault::Missing,
        Told::Unauthorized => WeightsFault::Unauthorized,
        Told::Unreachable => WeightsFault::Unreachable,
        Told::Corrupt => WeightsFault::Corrupt,
        Told::NoSpace => WeightsFault::NoSpace,
    }
}

/// A connection to a member's control port, made when it is first needed and again when it broke.
/// With an identity both sides prove who they are.
pub(crate) fn connection(
    control: Endpoint,
    identity: Option<Arc<Identity>>,
) -> WorkerClient<Channel> {
    let control = control
        .connect_timeout(CALL)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true);
    let connector = Connector { identity, server: Role::Worker, alpn: Alpn::Http2, connect: CALL };
    WorkerClient::new(control.connect_with_connector_lazy(connector))
}

/// Tells what is heard of a member and passes orders on, until there is nobody to give any.
pub(crate) async fn follow<F: Future<Output = ()>>(
    client: WorkerClient<Channel>,
    mut orders: mpsc::Receiver<Order>,
    tell: impl Fn(Heard) -> F,
) {
    loop {
        tokio::select! {
            () = reports(client.clone(), &tell) => {
                tell(Heard::Silent).await;
                sleep(RECONNECT).await;
            }
            order = orders.recv() => match order {
                Some(Order::Drain(within)) => drain(client.clone(), within).await,
                None => return,
            },
        }
    }
}

/// Passes reports on until the stream ends.
async fn reports<F: Future<Output = ()>>(
    mut client: WorkerClient<Channel>,
    tell: &impl Fn(Heard) -> F,
) {
    let stream = timeout(CALL, client.status(StatusRequest {})).await;
    let Ok(Ok(stream)) = stream else { return };
    let mut stream = stream.into_inner();
    while let Ok(Some(report)) = stream.message().await {
        tell(Heard::Report(Box::new(report))).await;
    }
}

async fn drain(mut client: WorkerClient<Channel>, within: Millis) {
    let seconds = u32::try_from(within.0.div_ceil(1000)).unwrap_or(u32::MAX).max(1);
    match timeout(CALL, client.drain(DrainRequest { seconds })).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a worker did not take the order to drain"),
        Err(_) => tracing::warn!("a worker did not answer the order to drain"),
    }
}
