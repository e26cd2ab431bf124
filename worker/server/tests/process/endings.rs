//! How a worker ends, and how it fails to begin.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use tokio::time::sleep;

use crate::worker::{Worker, client, command, fail, model};

async fn start_stream(worker: &Worker, tokens: u32) -> reqwest::Response {
    let body = json!({"model": "m", "prompt": "Once", "max_tokens": tokens, "ignore_eos": true,
        "stream": true});
    let request = client().post(format!("{}/v1/completions", worker.http));
    request.body(body.to_string()).send().await.expect("a stream")
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_takes_nothing_new() {
    let mut worker = Worker::start(&[]).await;
    let mut stream = start_stream(&worker, 60).await.bytes_stream();
    let mut text = stream.next().await.expect("a chunk").expect("sound").to_vec();
    worker.signal("TERM");
    sleep(Duration::from_millis(200)).await;
    let late = client().get(format!("{}/v1/models", worker.http)).send().await;
    late.expect_err("nobody listens any more");
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk.expect("sound"));
    }
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(worker.exit_code(), Some(0));
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let mut worker = Worker::start(&["--drain-seconds", "1"]).await;
    let response = start_stream(&worker, 8000).await;
    worker.signal("INT");
    let text = response.text().await.expect("a stream that is ended, not cut");
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    assert!(last.contains("\"code\":\"draining\""), "{last}");
    assert_eq!(worker.exit_code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut worker = Worker::start(&[]).await;
    let _stream = start_stream(&worker, 8000).await;
    worker.signal("TERM");
    sleep(Duration::from_millis(300)).await;
    worker.signal("TERM");
    assert_eq!(worker.exit_code(), Some(1));
}

#[tokio::test]
async fn a_worker_does_not_outlive_its_parent() {
    let mut worker = Worker::start(&[]).await;
    worker.close_stdin();
    assert!(worker.exit_code().is_some());
}

/// No machine has so many: the same is said with an NVIDIA driver and without one.
#[test]
fn no_usable_gpu_is_said_in_one_line() {
    let uri = "https://192.0.2.1/m.gguf";
    let gpu = ["--backend", "cuda", "--device", "999"];
    // As a replica alone, as both ranks of one, and as one of two members.
    for ranks in [
        &[] as &[&str],
        &["--tensor", "2", "--devices-per-member", "2"],
        &["--pipeline", "2", "--members", "127.0.0.1:8002,127.0.0.1:8003", "--member", "1"],
    ] {
        let (code, said) = fail(command(&[&["--model", uri], &gpu[..], ranks].concat()));
        assert_eq!((code, said.lines().count()), (Some(2), 1), "before any weights: {said}");
        let line: serde_json::Value = serde_json::from_str(&said).expect("a line of the log");
        assert_eq!((&line["level"], &line["fault"]), (&json!("ERROR"), &json!("NO_USABLE_GPU")));
        assert!(line["message"].as_str().expect("words").starts_with("no usable GPU: "), "{said}");
    }
}

#[test]
fn bad_usage_is_exit_code_2() {
    for (arguments, part) in [
        (&["--model", "pvc://claim/model"] as &[&str], "`pvc`"),
        (&["--model", "hf://nobody"], "hf://ORG/REPO"),
        (&["--model", "x", "--kv-cache-memory", "2 apples"], "--kv-cache-memory"),
        (&["--model", "x", "--max-sequences", "9999"], "--max-batch-tokens"),
        (&["--model", "x", "--sha256", "abc"], "64 hexadecimal"),
        (&["--model", "sim://qwen3-8b-h100"], "--backend sim"),
        (&["--model", "sim://nothing", "--backend", "sim"], "llama-3.1-8b-h100"),
        (&["--model", "x", "--sim-speed", "3"], "--backend sim"),
        (&["--model", "x", "--device", "1"], "--backend cuda"),
        (&["--model", "x", "--backend", "cuda", "--tensor", "2"], "there are 2 members"),
        (&["--listen", "127.0.0.1:0"], "--model"),
    ] {
        let (code, said) = fail(command(arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn bounds_that_the_model_cannot_have_are_exit_code_2() {
    let model = model();
    let model = model.to_str().expect("UTF-8");
    for cut in [&[] as &[&str], &["--pipeline", "2", "--devices-per-member", "2"]] {
        for (flag, value, part) in [
            (
                "--max-context-tokens",
                "9000",
                "(engine.maxContextTokens): the model was made for 8192",
            ),
            ("--kv-cache-memory", "1k", "(engine.kvCacheMemory) is below the 368640 bytes"),
        ] {
            let mut command = command(&["--model", model, flag, value]);
            command.args(cut);
            let (code, said) = fail(command);
            assert_eq!(code, Some(2), "{flag} {cut:?}: {said}");
            assert!(said.contains(part), "{flag} {cut:?}: {said}");
        }
    }
}

#[test]
fn a_model_that_cannot_be_served_is_exit_code_1() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = fs::read(model()).expect("the model");
    let cut = directory.path().join("cut.gguf");
    fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
    let noise = directory.path().join("noise.gguf");
    fs::write(&noise, b"this is not a model at all").expect("written");
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    for (model, more, part) in [
        ("/nowhere/m.gguf".to_owned(), &[] as &[&str], "/nowhere/m.gguf"),
        (path(&cut), &[], "cut.gguf"),
        (path(&noise), &[], "noise.gguf"),
        (path(&noise), &["--sha256", &"0".repeat(64)], "SHA-256"),
        ("http://127.0.0.1:9/m.gguf".to_owned(), &[], "refuses connections"),
    ] {
        let mut command = command(&["--model", &model]);
        command.args(more).args(["--cache-dir", &path(directory.path())]);
        let (code, said) = fail(command);
        assert_eq!(code, Some(1), "{model} {more:?}: {said}");
        assert!(said.contains(part), "{model} {more:?}: {said}");
    }
}

#[test]
fn weights_come_through_a_proxy_where_one_is_set() {
    let directory = tempfile::tempdir().expect("a directory");
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = proxy.local_addr().expect("bound");
    let asked = thread::spawn(move || {
        let (mut stream, _) = proxy.accept().expect("a connection");
        let mut line = String::new();
        let mut head = BufReader::new(stream.try_clone().expect("the same"));
        head.read_line(&mut line).expect("a line");
        let mut rest = String::new();
        while head.read_line(&mut rest).expect("a line") > 2 {}
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nGGUF";
        stream.write_all(answer.as_bytes()).expect("written");
        line
    });
    let mut command = command(&["--model", "http://models.example/m.gguf"]);
    command.env("HTTP_PROXY", format!("http://{address}")).env_remove("NO_PROXY");
    command.env_remove("no_proxy").arg("--cache-dir").arg(directory.path());
    let (code, said) = fail(command);
    assert_eq!(asked.join().expect("asked"), "GET http://models.example/m.gguf HTTP/1.1\r\n");
    assert_eq!(code, Some(1), "four bytes are no model");
    assert!(said.contains("opening the model"), "{said}");
}
