//! The gateway over real sockets, in front of small scripted workers.
#![allow(clippy::unwrap_used)] // all of this is a test, also what is no #[test] function

mod follow;
mod keys;
mod operator;
mod scripted;
mod tls;

use std::time::Duration;

use naru_gateway::Limits;
use scripted::{ANSWER, Answer, Front, Then, Worker, chat, endpoint, events};
use tokio::time::{sleep, timeout};

fn quick() -> Limits {
    Limits {
        body_bytes_max: 1000,
        body_read: Duration::from_millis(300),
        header_read: Duration::from_millis(300),
        wait: Duration::from_millis(400),
        waiting_max: 2,
        attempts_max: 2,
        ..Limits::default()
    }
}

#[tokio::test]
async fn bytes_and_headers_pass_untouched() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let front = Front::start(&[("m", &[endpoint("a", &worker)])], quick()).await;
    let body = r#"{"model":"m",  "unknown":{"x":[1,2]}}"#;
    let sent = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: naru\r\nauthorization: Bearer k\r\n\
         x-naru-tenant: bank\r\nx-custom: kept\r\ntraceparent: 00-1-2-01\r\n\
         x-request-id: r-7\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = front.send(&sent).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    assert_eq!(answer.header("x-from"), Some("worker"));
    assert_eq!(answer.header("x-request-id"), Some("r-7"));
    let seen = worker.requests().remove(0);
    assert!(seen.ends_with(body), "{seen}");
    assert!(seen.contains("x-custom: kept") && seen.contains("x-request-id: r-7"), "{seen}");
    assert!(seen.contains("traceparent: 00-1-2-01"), "{seen}");
    assert!(!seen.contains("Bearer") && !seen.contains("bank"), "{seen}");
}

#[tokio::test]
async fn refusals() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let asleep: &[_] = &[];
    let front = Front::start(&[("m", &[endpoint("a", &worker)]), ("zero", asleep)], quick()).await;
    let long = format!("{{\"model\":\"m\",\"x\":\"{}\"}}", "x".repeat(2000));
    let rows = [
        ("not JSON", "{", 400, "not valid JSON"),
        ("not an object", "[]", 400, "invalid_request_error"),
        ("no model", "{}", 400, "\"param\":\"model\""),
        ("a model that is no text", "{\"model\":7}", 400, "\"param\":\"model\""),
        ("a model nobody has", "{\"model\":\"x\"}", 404, "model_not_found"),
        ("a model without replicas", "{\"model\":\"zero\"}", 503, "no_replica"),
        ("a body that is too long", long.as_str(), 413, "request_too_large"),
    ];
    for (fact, body, status, words) in rows {
        let answer = front.post(body).await;
        assert_eq!(answer.status, status, "{fact}: {}", answer.body);
        assert!(answer.body.contains(words), "{fact}: {}", answer.body);
        assert!(answer.body.starts_with("{\"error\":{"), "{fact}: {}", answer.body);
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{fact}");
    }
    for (fact, line, status) in [
        ("no such path", "GET /v2/models", 404),
        ("a wrong method", "GET /v1/chat/completions", 405),
        ("a model by name", "GET /v1/models/m", 200),
        ("a model by a wrong name", "GET /v1/models/a/b", 404),
    ] {
        let sent = format!("{line} HTTP/1.1\r\nhost: naru\r\nconnection: close\r\n\r\n");
        assert_eq!(front.send(&sent).await.status, status, "{fact}");
    }
    assert!(worker.requests().is_empty(), "none of them reached the worker");
    let page = front.metrics().await;
    assert!(
        page.contains("naru_gateway_requests_total{model=\"\",status=\"404\",tenant=\"\"} 2"),
        "{page}"
    );
    assert!(!page.contains("model=\"x\""), "clients do not choose labels: {page}");
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let front = Front::start(&[], quick()).await;
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    let sent = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: naru\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    assert_eq!(front.send(&sent).await.status, 413);
}

#[tokio::test]
async fn a_large_body_is_refused_before_it_is_sent() {
    let front = Front::start(&[], quick()).await;
    let head = "POST /v1/completions HTTP/1.1\r\nhost: naru\r\ncontent-length: 104857600\r\n\r\n";
    let answer = timeout(Duration::from_secs(2), front.head_of(head)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn requests_go_where_the_fewest_are() {
    let begins = events(&["data: 1\n\n"]);
    let workers =
        [Worker::start(&begins, Then::Hold).await, Worker::start(&begins, Then::Hold).await];
    let endpoints = [endpoint("a", &workers[0]), endpoint("b", &workers[1])];
    let front = Front::start(&[("m", &endpoints)], Limits::default()).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(front.begin(&chat("m")).await);
    }
    assert_eq!(workers.each_ref().map(|worker| worker.requests().len()), [3, 3]);
}

#[tokio::test]
async fn a_request_waits_for_its_worker() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let mut starting = endpoint("a", &worker);
    starting.ready = false;
    let front = Front::start(&[("m", &[starting])], Limits::default()).await;
    let body = chat_body("m");
    let (answer, ()) = tokio::join!(front.post(&body), async {
        sleep(Duration::from_millis(200)).await;
        front.publish(&[("m", &[endpoint("a", &worker)])]);
    });
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_request_wakes_a_model_that_sleeps() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let front = Front::start(&[("m", &[])], Limits::default()).await;
    let mut asleep = (*front.snapshot()).clone();
    asleep.models.get_mut("m").unwrap().wakes = true;
    front.publish_snapshot(asleep);
    let body = chat_body("m");
    let (answer, ()) = tokio::join!(front.post(&body), async {
        front.shows("naru_gateway_requests_waiting 1").await;
        front.publish(&[("m", &[endpoint("a", &worker)])]);
    });
    assert_eq!(answer.status, 200);
}

fn chat_body(model: &str) -> String {
    format!("{{\"model\":\"{model}\"}}")
}

#[tokio::test]
async fn waiting_is_bounded_in_time_and_number() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let mut starting = endpoint("a", &worker);
    starting.ready = false;
    let front = Front::start(&[("m", &[starting])], quick()).await;
    let body = chat_body("m");
    let (one, two, three) = tokio::join!(front.post(&body), front.post(&body), async {
        sleep(Duration::from_millis(150)).await;
        front.post(&body).await
    });
    for answer in [&one, &two] {
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains("no_worker_ready"), "{}", answer.body);
    }
    assert_eq!(three.status, 503);
    assert!(three.body.contains("queue_full"), "{}", three.body);
    assert!(three.header("retry-after").is_some());
}

#[tokio::test]
async fn what_has_streamed_nothing_is_tried_elsewhere() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let loading = "{\"error\":{\"message\":\"\",\"code\":\"model_not_ready\"}}";
    let loading = format!("HTTP/1.1 503 x\r\ncontent-length: {}\r\n\r\n{loading}", loading.len());
    for (fact, first) in
        [("no answer", ""), ("a head alone", head), ("it is not up yet", loading.as_str())]
    {
        let dead = Worker::start(first, Then::Close).await;
        let alive = Worker::start(ANSWER, Then::Close).await;
        let endpoints = [endpoint("a", &dead), endpoint("b", &alive)];
        let front = Front::start(&[("m", &endpoints)], quick()).await;
        let answer = front.post(&chat_body("m")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{fact}");
        assert_eq!(dead.requests().len(), 1, "{fact}");
    }
}

#[tokio::test]
async fn what_fails_everywhere_is_a_502() {
    let workers = [Worker::start("", Then::Close).await, Worker::start("", Then::Close).await];
    let endpoints = [endpoint("a", &workers[0]), endpoint("b", &workers[1])];
    let front = Front::start(&[("m", &endpoints)], quick()).await;
    let answer = front.post(&chat_body("m")).await;
    assert_eq!(answer.status, 502, "{}", answer.body);
    assert!(answer.body.contains("worker_failed"), "{}", answer.body);
}

#[tokio::test]
async fn a_worker_that_is_full_says_so_itself() {
    let full = "{\"error\":{\"message\":\"full\",\"code\":\"overloaded\"}}";
    let full =
        format!("HTTP/1.1 503 x\r\nretry-after: 9\r\ncontent-length: {}\r\n\r\n{full}", full.len());
    let worker = Worker::start(&full, Then::Close).await;
    let front = Front::start(&[("m", &[endpoint("a", &worker)])], quick()).await;
    let answer = front.post(&chat_body("m")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("9")));
    assert!(answer.body.contains("overloaded"));
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event() {
    let worker = Worker::start(&events(&["data: {\"a\":1}\n\n", "data: {\"b"]), Then::Close).await;
    let front = Front::start(&[("m", &[endpoint("a", &worker)])], quick()).await;
    let answer = front.post(&chat_body("m")).await;
    assert_eq!(answer.status, 200);
    let mut lines = answer.body.lines().filter(|line| !line.is_empty());
    assert_eq!(lines.next(), Some("data: {\"a\":1}"));
    assert_eq!(lines.next(), Some("data: {\"b"));
    let last = lines.next().unwrap();
    assert!(last.starts_with("data: {\"error\":{") && last.contains("worker_failed"), "{last}");
    assert_eq!(lines.next(), None);
    assert!(answer.is_complete, "the answer ends as HTTP, the error is in the stream");
    assert_eq!(worker.requests().len(), 1, "what has streamed is never started again");
}

#[tokio::test]
async fn a_plain_answer_that_breaks_is_seen_to_be_cut() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let worker = Worker::start(cut, Then::Close).await;
    let front = Front::start(&[("m", &[endpoint("a", &worker)])], quick()).await;
    let answer = front.post(&chat_body("m")).await;
    assert!(!answer.is_complete, "{answer:?}");
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_by_the_worker() {
    for (fact, begins) in [("before the answer", ""), ("within it", &*events(&["data: 1\n\n"]))] {
        let worker = Worker::start(begins, Then::Hold).await;
        let front = Front::start(&[("m", &[endpoint("a", &worker)])], Limits::default()).await;
        let client = front.begin(&chat("m")).await;
        assert_eq!(worker.left(), 0, "{fact}");
        drop(client);
        let noticed = async {
            while worker.left() == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(2), noticed).await.expect(fact);
    }
}

#[tokio::test]
async fn slow_clients_are_dropped_and_others_served() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let front = Front::start(&[("m", &[endpoint("a", &worker)])], quick()).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        slow.push(front.connect("POST /v1/completions HTTP/1.1\r\nhost: na").await);
    }
    assert_eq!(front.post(&chat_body("m")).await.status, 200, "beside fifty slow ones");
    for mut client in slow {
        let rest = timeout(Duration::from_secs(3), Answer::read(&mut client)).await;
        rest.expect("a slow head is dropped");
    }
    let sent = "POST /v1/completions HTTP/1.1\r\nhost: naru\r\ncontent-length: 50\r\n\r\n{\"mo";
    let answer = timeout(Duration::from_secs(3), front.head_of(sent)).await;
    let answer = answer.expect("a slow body is answered");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn the_end_lets_answers_finish_and_takes_nothing_new() {
    let worker = Worker::start(&events(&["data: 1\n\n"]), Then::Finish).await;
    let mut front = Front::start(&[("m", &[endpoint("a", &worker)])], Limits::default()).await;
    let mut client = front.begin(&chat("m")).await;
    front.stop(Duration::from_secs(5));
    sleep(Duration::from_millis(50)).await;
    assert!(front.refuses_connections().await);
    worker.finish();
    let answer = Answer::read(&mut client).await;
    assert!(answer.is_complete && answer.body.contains("data: [DONE]"), "{answer:?}");
    timeout(Duration::from_secs(2), front.ended()).await.expect("it ends when all have finished");
}

#[tokio::test]
async fn the_end_does_not_wait_for_ever() {
    let worker = Worker::start(&events(&["data: 1\n\n"]), Then::Hold).await;
    let mut front = Front::start(&[("m", &[endpoint("a", &worker)])], Limits::default()).await;
    let _client = front.begin(&chat("m")).await;
    front.stop(Duration::from_millis(200));
    timeout(Duration::from_secs(2), front.ended()).await.expect("its time is over");
}
