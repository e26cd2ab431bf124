//! The operator's gRPC.

use std::net::TcpListener;

use naru_protocol::worker::v1::worker_client::WorkerClient;
use naru_protocol::worker::v1::{DrainRequest, State, StatusReport, StatusRequest};
use tonic::transport::Channel;

use crate::worker::Worker;

async fn connect(worker: &Worker) -> WorkerClient<Channel> {
    let endpoint = Channel::from_shared(worker.control.clone()).expect("an address");
    WorkerClient::new(endpoint.connect().await.expect("a connection"))
}

async fn reports_until(worker: &Worker, state: State) -> Vec<StatusReport> {
    let mut stream =
        connect(worker).await.status(StatusRequest {}).await.expect("a stream").into_inner();
    let mut reports = Vec::new();
    while let Some(report) = stream.message().await.expect("a report") {
        let now = report.state();
        reports.push(report);
        if now == state {
            break;
        }
    }
    reports
}

#[tokio::test]
async fn an_operator_follows_the_load() {
    let worker = Worker::start_early(&[]);
    let reports = reports_until(&worker, State::Ready).await;
    let states: Vec<State> = reports.iter().map(StatusReport::state).collect();
    let known = [State::Fetching, State::Loading, State::Ready];
    assert!(states.iter().all(|state| known.contains(state)), "{states:?}");
    assert!(states.is_sorted_by_key(|&state| state as i32), "{states:?}");
    let last = reports.last().expect("a report");
    assert_eq!(last.model_names, ["m"]);
    assert_eq!(last.context_tokens_max, 8192);
    assert!(last.kv_blocks_total > 0 && last.kv_blocks_used == 0);
    let load = last.load.expect("progress");
    assert_eq!((load.bytes_done, load.bytes_done > 0), (load.bytes_total, true));
}

#[tokio::test]
async fn an_operator_drains() {
    let mut worker = Worker::start(&[]).await;
    let reply = connect(&worker).await.drain(DrainRequest { seconds: 5 }).await;
    assert_eq!(reply.expect("a reply").into_inner().running, 0);
    assert_eq!(worker.exit_code(), Some(0));
}

#[tokio::test]
async fn an_operator_reads_which_rank_is_missing() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let (listen, members) =
        (format!("--links-listen={free}"), format!("--members={free},127.0.0.1:1"));
    let worker = Worker::start_early(&["--pipeline=2", &members, &listen]);
    let reports = reports_until(&worker, State::Apart).await;
    let states: Vec<State> = reports.iter().map(StatusReport::state).collect();
    assert!(!states.contains(&State::Ready), "{states:?}");
    let mut reports = connect(&worker).await.status(StatusRequest {}).await.expect("a stream");
    let why = "waiting for ranks [1] of 2";
    while reports.get_mut().message().await.expect("a report").expect("one more").reason != why {}
    let (code, words) = worker.get("/readyz").await;
    assert_eq!((code, words), (503, format!("waiting for the other ranks: {why}\n")));
}
