//! The `sim` backend: a whole worker without a model.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::worker::Worker;

const URI: &str = "sim://llama-3.1-8b-h100";
const FINGERPRINT: &str = "sim-llama-3.1-8b-h100";
const CHAT: &str = "/v1/chat/completions";
const WATTS: &str = "naru_worker_power_watts{source=\"model\"}";
const JOULES: &str = "naru_worker_energy_joules_total{source=\"model\"}";

/// One second, on a machine that may be busy with other tests.
const START_MAX: Duration = Duration::from_secs(5);
const RESIDENT_BYTES_MAX: f64 = 30.0 * 1024.0 * 1024.0;

fn question(number: usize, fields: Value) -> String {
    let messages = json!([{"role": "user", "content": format!("Question {number}, please")}]);
    let mut body = json!({"model": "m", "messages": messages, "max_tokens": 40});
    body["ignore_eos"] = true.into();
    for (key, value) in fields.as_object().expect("fields") {
        body[key] = value.clone();
    }
    body.to_string()
}

async fn ask(worker: &Worker, number: usize) -> Value {
    let (status, answer) = worker.post(CHAT, &question(number, json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("a text")
}

#[tokio::test]
async fn it_starts_at_once_and_is_small() {
    let start = Instant::now();
    let worker = Worker::simulate(URI, &[]).await;
    let took = start.elapsed();
    assert!(took < START_MAX, "{took:?}");
    join_all((0..8).map(|number| ask(&worker, number))).await;
    let resident = worker.metric("process_resident_memory_bytes").await;
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes");
}

#[tokio::test]
async fn everything_says_that_it_is_simulated() {
    let worker = Worker::simulate(URI, &["--sim-speed", "0"]).await;
    assert_eq!(ask(&worker, 1).await["system_fingerprint"], FINGERPRINT);
    let body = json!({"model": "m", "prompt": "Once", "max_tokens": 3}).to_string();
    let (_, completion) = worker.post("/v1/completions", &body).await;
    assert_eq!(completion["system_fingerprint"], FINGERPRINT);
    for event in worker.stream(CHAT, &question(1, json!({"stream": true}))).await {
        if event != "[DONE]" {
            let event: Value = serde_json::from_str(&event).expect("JSON");
            assert_eq!(event["system_fingerprint"], FINGERPRINT);
        }
    }
    let (_, models) = worker.get("/v1/models").await;
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!(models["data"][0]["owned_by"], "naru-sim");
    assert_eq!(models["data"][0]["max_model_len"], 131_072);
    assert_eq!(worker.metric("naru_worker_simulated").await, 1.0);
}

#[tokio::test]
async fn a_question_has_the_same_answer_whenever_and_wherever_it_is_asked() {
    let first = Worker::simulate(URI, &["--sim-speed", "0"]).await;
    let other = Worker::simulate(
        "sim://qwen3-14b-h100",
        &[
            "--sim-speed",
            "100",
            "--max-sequences",
            "5",
            "--max-batch-tokens",
            "16",
            "--max-context-tokens",
            "128",
            "--kv-cache-memory",
            "40Mi",
        ],
    )
    .await;
    let mut alone = Vec::new();
    for number in 0..16 {
        alone.push(ask(&first, number).await);
    }
    let together = join_all((0..16).map(|number| ask(&other, number))).await;
    for (one, two) in alone.iter().zip(&together) {
        assert_eq!(text(one), text(two));
        assert_eq!(two["usage"]["completion_tokens"], 40);
    }
    assert_ne!(text(&alone[0]), text(&alone[1]));
    assert!(other.metric("naru_preemptions_total").await > 0.0, "the KV cache was too small");
    let options = json!({"stream": true});
    let events = first.stream(CHAT, &question(3, options)).await;
    let delta = |event: &String| {
        let event: Value = serde_json::from_str(event).ok()?;
        Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned())
    };
    assert_eq!(events.iter().filter_map(delta).collect::<String>(), text(&alone[3]));
    assert!(events.len() > 40, "one event for each token");
}

#[tokio::test]
async fn time_and_watts_are_those_of_the_profile() {
    let worker = Worker::simulate(URI, &["--sim-speed", "2"]).await;
    assert_eq!(worker.metric(WATTS).await, 120.0, "it idles");
    let before = worker.metric(JOULES).await;
    let start = Instant::now();
    let tokens = json!({"max_tokens": 200, "stream": true});
    let (body, watts) = (question(1, tokens), async {
        worker.until("naru_generation_tokens_total", 20.0).await;
        worker.metric(WATTS).await
    });
    let (_, watts) = tokio::join!(worker.stream(CHAT, &body), watts);
    let took = start.elapsed().as_secs_f64();
    // 199 steps of one sequence and the prompt's: 6.746 ms each, at twice the speed.
    assert!((0.67..5.0).contains(&took), "{took}");
    assert_eq!(watts, 343.0, "one sequence");
    worker.settle().await;
    let joules = worker.metric(JOULES).await - before;
    let steps = 200.0 * 6.746e-3 * 343.0;
    let idle = 2.0 * 120.0 * (start.elapsed().as_secs_f64() - 0.67);
    assert!((0.98 * steps..1.1 * steps + idle).contains(&joules), "{joules} J, steps {steps} J");
}

#[tokio::test]
async fn loading_takes_as_long_as_it_is_told_to() {
    let start = Instant::now();
    let arguments = ["--backend", "sim", "--sim-load-seconds", "8", "--sim-speed", "10"];
    let worker = Worker::spawn(URI, &arguments);
    worker.until("naru_worker_simulated", 1.0).await;
    let (status, phase) = worker.get("/readyz").await;
    assert_eq!((status, phase.as_str()), (503, "loading\n"));
    let worker = worker.ready().await;
    assert!(start.elapsed() >= Duration::from_millis(800));
    assert!(worker.metric("naru_model_load_seconds{phase=\"load\"}").await >= 0.8);
}
