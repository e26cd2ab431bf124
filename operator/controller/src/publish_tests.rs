use naru_protocol::SnapshotVersion;
use naru_protocol::control::v1::DeploymentDemand;
use naru_protocol::control::v1::control_client::ControlClient;
use tokio::time::timeout;
use tonic::Code;

use super::*;

/// An operator that listens, and what its loop would hold.
struct Rig {
    snapshots: watch::Sender<Arc<Snapshot>>,
    publisher: Publisher,
    address: String,
    _stop: tokio::sync::oneshot::Sender<()>,
}

async fn rig(sequence: u64) -> Rig {
    let (snapshots, published) = watch::channel(snapshot(sequence));
    let publisher = Publisher::new(published);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stops) = tokio::sync::oneshot::channel();
    let stops = async { drop(stops.await) };
    tokio::spawn(publisher.clone().serve(listener, stops));
    Rig { snapshots, publisher, address, _stop: stop }
}

fn snapshot(sequence: u64) -> Arc<Snapshot> {
    Arc::new(Snapshot { version: SnapshotVersion { epoch: 3, sequence }, ..Snapshot::default() })
}

/// A gateway's end of the stream.
struct Follows {
    reports: mpsc::Sender<GatewayReport>,
    snapshots: Streaming<v1::Snapshot>,
}

impl Rig {
    async fn follow(&self) -> Result<Follows, Status> {
        let channel = tonic::transport::Endpoint::from_shared(self.address.clone()).unwrap();
        let mut client = ControlClient::new(channel.connect().await.unwrap());
        let (reports, outgoing) = mpsc::channel(1);
        let snapshots = client.follow(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Follows { reports, snapshots })
    }
}

impl Follows {
    /// The next snapshot's sequence.
    async fn next(&mut self) -> Result<u64, Code> {
        let next = timeout(Duration::from_secs(5), self.snapshots.message()).await;
        let message = next.expect("it comes soon").map_err(|status| status.code())?;
        Ok(message.expect("the stream goes on").version.unwrap().sequence)
    }
}

#[tokio::test]
async fn the_present_snapshot_comes_at_once_and_then_each_change() {
    let rig = rig(7).await;
    let mut gateways = [rig.follow().await.unwrap(), rig.follow().await.unwrap()];
    for gateway in &mut gateways {
        assert_eq!(gateway.next().await, Ok(7));
    }
    rig.snapshots.send_replace(snapshot(8));
    for gateway in &mut gateways {
        assert_eq!(gateway.next().await, Ok(8));
    }
}

#[tokio::test]
async fn only_who_publishes_is_followed() {
    let rig = rig(0).await;
    let refused = async || rig.follow().await.err().map(|status| status.code());
    assert_eq!(refused().await, Some(Code::Unavailable), "an empty snapshot would stop all");
    rig.snapshots.send_replace(snapshot(1));
    let mut gateway = rig.follow().await.unwrap();
    assert_eq!(gateway.next().await, Ok(1));
    rig.snapshots.send_replace(snapshot(0));
    assert_eq!(gateway.next().await, Err(Code::Unavailable), "who followed is sent away");
    assert_eq!(refused().await, Some(Code::Unavailable), "and so is who comes");
}

#[tokio::test]
async fn what_gateways_want_reaches_the_loop() {
    let rig = rig(1).await;
    let gateways = [rig.follow().await.unwrap(), rig.follow().await.unwrap()];
    let mut demand = rig.publisher.demands();
    for (name, gateway) in ["a", "b"].iter().zip(&gateways) {
        let wanted = DeploymentDemand { deployment: "x/m".into(), waiting: 1, in_flight: 2 };
        let report = GatewayReport { gateway: name.to_string(), held: None, demand: vec![wanted] };
        gateway.reports.send(report).await.unwrap();
    }
    let both = demand.wait_for(|demand| {
        demand.values().next().is_some_and(|wanted| (wanted.waiting, wanted.in_flight) == (2, 4))
    });
    timeout(Duration::from_secs(5), both).await.expect("both are counted").unwrap();
}
