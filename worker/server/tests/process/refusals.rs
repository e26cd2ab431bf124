//! What is refused over HTTP: request → status, field, words. (What needs no model is tested in
//! naru-protocol; here is what only a running worker can refuse, and that nothing harms it.)

use serde_json::{Value, json};

use crate::worker::{Worker, client};

/// Checks that `body` is refused as `expected` says (`STATUS PARAM CODE`) with `part` in the words.
async fn check(fact: &str, (path, body): (&str, &str), expected: &str, part: &str) {
    let (status, answer) = Worker::shared().await.post(path, body).await;
    let error = &answer["error"];
    let word = |name: &str| error[name].as_str().unwrap_or("-").to_owned();
    let actual = format!("{status} {} {}", word("param"), word("code"));
    assert_eq!(actual, expected, "{fact}: {answer}");
    assert!(error["type"].is_string(), "{fact}: {answer}");
    assert!(word("message").contains(part), "{fact}: {answer}");
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat(fields: Value) -> String {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    for (key, value) in fields.as_object().expect("fields") {
        body[key] = value.clone();
    }
    body.to_string()
}

fn completion(fields: Value) -> String {
    let mut body = json!({"model": "m", "prompt": "Hi"});
    for (key, value) in fields.as_object().expect("fields") {
        body[key] = value.clone();
    }
    body.to_string()
}

#[tokio::test]
async fn requests_that_the_model_cannot_answer() {
    let long = chat(json!({"messages": [{"role": "user", "content": "word ".repeat(9000)}]}));
    check("a long chat", (CHAT, &long), "400 messages context_length_exceeded", "8192").await;
    let check = async |fields: Value, expected: &str, part: &str| {
        let body = completion(fields);
        check(&body, (COMPLETIONS, &body), expected, part).await;
    };
    check(json!({"max_tokens": 8192}), "400 prompt context_length_exceeded", "8192").await;
    check(json!({"prompt": [1, 49152]}), "400 prompt invalid_value", "49152").await;
    check(json!({"prompt": ""}), "400 prompt invalid_value", "no tokens").await;
    let bias = json!({"logit_bias": {"49152": 1}});
    check(bias, "400 logit_bias invalid_value", "49152").await;
    check(json!({"model": "n"}), "404 model model_not_found", "`n`").await;
    Worker::shared().await.settle().await;
}

#[tokio::test]
async fn requests_that_are_wrong_in_themselves() {
    let chat_check = async |fields: Value, expected: &str, part: &str| {
        check(expected, (CHAT, &chat(fields)), expected, part).await;
    };
    chat_check(json!({"model": "n"}), "404 model model_not_found", "`n`").await;
    let wrong = json!({"messages": [{"role": "user", "content": 5}]});
    chat_check(wrong, "400 messages[0].content invalid_type", "integer").await;
    let promise = json!({"tool_choice": "required"});
    chat_check(promise, "400 tool_choice unsupported_parameter", "tool_choice").await;
    chat_check(json!({"stop": vec!["x"; 100_000]}), "400 stop invalid_value", "at most 16").await;
    check("a cut body", (CHAT, "{\"model\": "), "400 - invalid_json", "not valid JSON").await;
    let unknown = r#"{"tokens": [1, 99999]}"#;
    check("unknown", ("/detokenize", unknown), "400 tokens[1] invalid_value", "outside").await;
    let other = r#"{"model": "n", "prompt": "x"}"#;
    check("another", ("/tokenize", other), "404 model model_not_found", "`n`").await;
    Worker::shared().await.settle().await;
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist() {
    let worker = Worker::shared().await;
    for (path, status, code) in [
        ("/v1/chat/completions", 405, "method_not_allowed"),
        ("/tokenize", 405, "method_not_allowed"),
        ("/v1/embeddings", 404, "not_found"),
        ("/v1/models/other", 404, "model_not_found"),
    ] {
        let (actual, body) = worker.get(path).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((actual, body["error"]["code"].as_str()), (status, Some(code)), "{path}");
    }
}

#[tokio::test]
async fn large_bodies_are_refused_before_they_are_read() {
    let worker = Worker::shared().await;
    let large = "x".repeat(100 << 20);
    let expected = "413 - request_too_large";
    check("an announced length", (COMPLETIONS, &large), expected, "1048576 bytes").await;
    let parts = futures::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 65536])));
    let request = client().post(format!("{}/v1/completions", worker.http));
    let response = request.body(reqwest::Body::wrap_stream(parts)).send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 413, "a length that is not");
}

#[tokio::test]
async fn an_id_is_kept_if_it_is_plain() {
    let worker = Worker::shared().await;
    let long = "x".repeat(500);
    for (given, kept) in [("abc-123", true), ("two words", false), (long.as_str(), false)] {
        let request = client().get(format!("{}/v1/models", worker.http));
        let response = request.header("x-request-id", given).send().await.expect("an answer");
        let id = response.headers()["x-request-id"].to_str().expect("plain").to_owned();
        assert_eq!(id == given, kept, "{given}");
        assert!((1..=128).contains(&id.len()), "{id}");
    }
}
