//! Clients that leave, and clients that dawdle.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::worker::{Worker, client};

/// A request that goes on for long.
fn endless(stream: bool) -> String {
    json!({"model": "m", "prompt": "Once", "max_tokens": 8000, "ignore_eos": true,
        "stream": stream})
    .to_string()
}

#[tokio::test]
async fn a_client_that_leaves_frees_what_it_held() {
    let worker = Worker::shared().await;
    for stream in [true, false] {
        let request = client().post(format!("{}/v1/completions", worker.http));
        let request = request.body(endless(stream)).timeout(Duration::from_millis(300));
        let left = match request.send().await {
            Err(error) => error,
            Ok(response) => response.text().await.expect_err("it goes on for long"),
        };
        assert!(left.is_timeout(), "{left}");
        worker.settle().await;
    }
}

#[tokio::test]
async fn slow_clients_do_not_slow_the_others() {
    const SLOW: usize = 300;
    let worker = Worker::shared().await;
    let address = worker.http.strip_prefix("http://").expect("an address");
    let mut slow = Vec::new();
    for index in 0..SLOW {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let head: &[u8] = match index % 3 {
            0 => b"POST /v1/completions HTTP/1.1\r\nHost",
            1 => b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n{",
            _ => b"",
        };
        stream.write_all(head).await.expect("written");
        slow.push(stream);
    }
    let start = Instant::now();
    let body = json!({"model": "m", "prompt": "Hi", "max_tokens": 2}).to_string();
    for _ in 0..10 {
        let (status, answer) = worker.post("/v1/completions", &body).await;
        assert_eq!(status, 200, "{answer}");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "slow clients are in the way");
}
