//! What is answered: whole and streamed, one and many.

use serde_json::{Value, json};

use crate::worker::Worker;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn question(fields: Value) -> Value {
    let messages = json!([{"role": "user", "content": "What is the capital of Japan?"}]);
    let mut body = json!({"model": "m", "messages": messages, "temperature": 0, "max_tokens": 20});
    for (key, value) in fields.as_object().expect("fields") {
        body[key] = value.clone();
    }
    body
}

async fn answer(worker: &Worker, path: &str, body: Value) -> Value {
    let (status, answer) = worker.post(path, &body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("a text")
}

#[tokio::test]
async fn a_question_is_answered() {
    let worker = Worker::shared().await;
    let whole = answer(worker, CHAT, question(json!({}))).await;
    assert!(text(&whole).contains("Tokyo"), "{whole}");
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let usage = &whole["usage"];
    let count = |name: &str| usage[name].as_u64().expect("a count");
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    let again = answer(worker, CHAT, question(json!({}))).await;
    assert_eq!(text(&again), text(&whole), "greedy answers are equal");
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert!(cached > Some(0), "the prompt was computed before: {again}");
}

#[tokio::test]
async fn a_stream_adds_up_to_the_whole_answer() {
    let worker = Worker::shared().await;
    let whole = answer(worker, CHAT, question(json!({}))).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let mut events = worker.stream(CHAT, &question(options).to_string()).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    let (last, chunks) = chunks.split_last().expect("some chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let delta = |chunk: &Value| {
        chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(chunks.iter().map(delta).collect::<String>(), text(&whole));
    let finish = &chunks.last().expect("a last chunk")["choices"][0]["finish_reason"];
    assert_eq!(finish, "stop");
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk["id"] == last["id"]));
}

#[tokio::test]
async fn choices_differ_and_seeds_repeat_them() {
    let worker = Worker::shared().await;
    let fields = json!({"n": 3, "seed": 7, "temperature": 1.5, "max_tokens": 12});
    let contents = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().expect("choices");
        choices.iter().map(|choice| choice["message"]["content"].to_string()).collect()
    };
    let first = answer(worker, CHAT, question(fields.clone())).await;
    let again = answer(worker, CHAT, question(fields)).await;
    assert_eq!(contents(&first), contents(&again));
    assert_eq!(contents(&first).len(), 3);
    assert_ne!(contents(&first)[0], contents(&first)[1]);
}

#[tokio::test]
async fn stops_end_the_answer() {
    let worker = Worker::shared().await;
    let stopped = answer(worker, CHAT, question(json!({"stop": ["Japan"]}))).await;
    assert_eq!(text(&stopped), "The capital of ");
    assert_eq!(stopped["choices"][0]["stop_reason"], "Japan");
    let fields = json!({"stop": "Japan", "include_stop_str_in_output": true});
    assert_eq!(text(&answer(worker, CHAT, question(fields)).await), "The capital of Japan");
    let fields = json!({"ignore_eos": true, "max_tokens": 15});
    let long = answer(worker, CHAT, question(fields)).await;
    assert_eq!(long["choices"][0]["finish_reason"], "length");
    assert_eq!(long["usage"]["completion_tokens"], 15);
}

#[tokio::test]
async fn log_probabilities_of_a_chat() {
    let worker = Worker::shared().await;
    let fields = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 4});
    let answer = answer(worker, CHAT, question(fields)).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("content");
    assert_eq!(content.len(), 4);
    for token in content {
        let top = token["top_logprobs"].as_array().expect("alternatives");
        assert_eq!(top.len(), 2);
        assert_eq!(top[0]["token"], token["token"], "greedy takes the likeliest");
        assert!(token["logprob"].as_f64().expect("a number") <= 0.0);
        let bytes: Vec<u8> = serde_json::from_value(token["bytes"].clone()).expect("bytes");
        assert_eq!(String::from_utf8(bytes).ok().as_deref(), token["token"].as_str());
    }
}

#[tokio::test]
async fn prompts_of_every_form_are_continued() {
    let worker = Worker::shared().await;
    let ask = |prompt: Value| json!({"model": "m", "prompt": prompt, "temperature": 0});
    let one = answer(worker, COMPLETIONS, ask(json!("The sky is"))).await;
    let continued = one["choices"][0]["text"].clone();
    let tokens = answer(worker, "/tokenize", json!({"prompt": "The sky is"})).await;
    let ids = &tokens["tokens"];
    for (prompt, texts) in [(ids.clone(), 1), (json!([ids]), 1), (json!(["The sky is", ids]), 2)] {
        let answer = answer(worker, COMPLETIONS, ask(prompt)).await;
        let choices = answer["choices"].as_array().expect("choices");
        assert_eq!(choices.len(), texts);
        for (index, choice) in choices.iter().enumerate() {
            assert_eq!(choice["index"], index);
            assert_eq!(choice["text"], continued);
        }
    }
    let text = answer(worker, "/detokenize", json!({"tokens": ids})).await;
    assert_eq!(text["prompt"], "The sky is");
    assert_eq!(tokens["count"].as_u64(), ids.as_array().map(|ids| ids.len() as u64));
}

#[tokio::test]
async fn an_echo_brings_the_prompt_back_with_its_log_probabilities() {
    let worker = Worker::shared().await;
    let body = |more: u32| {
        json!({"model": "m", "prompt": "The sky is", "echo": true, "logprobs": 1,
            "temperature": 0, "max_tokens": more})
    };
    let alone = answer(worker, COMPLETIONS, body(0)).await;
    assert_eq!(alone["choices"][0]["text"], "The sky is");
    let lists = &alone["choices"][0]["logprobs"];
    assert_eq!(lists["tokens"], json!(["The", " sky", " is"]));
    assert_eq!(lists["text_offset"], json!([0, 3, 7]));
    assert!(lists["token_logprobs"][0].is_null() && lists["token_logprobs"][1].is_number());
    let longer = answer(worker, COMPLETIONS, body(2)).await;
    let text = longer["choices"][0]["text"].as_str().expect("a text");
    assert!(text.starts_with("The sky is") && text.len() > 10, "{text}");
    let count = longer["choices"][0]["logprobs"]["tokens"].as_array().map(Vec::len);
    assert_eq!(count, Some(5));
}

#[tokio::test]
async fn a_chat_is_tokenized_as_it_is_answered() {
    let worker = Worker::shared().await;
    let whole = answer(worker, CHAT, question(json!({}))).await;
    let tokens = answer(worker, "/tokenize", question(json!({"return_token_strs": true}))).await;
    assert_eq!(tokens["count"], whole["usage"]["prompt_tokens"]);
    assert_eq!(tokens["max_model_len"], 8192);
    assert_eq!(tokens["token_strs"][0], "<|im_start|>");
}

#[tokio::test]
async fn models_are_listed() {
    let worker = Worker::shared().await;
    let (status, list) = worker.get("/v1/models").await;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!((status, &list["object"]), (200, &json!("list")));
    assert_eq!(list["data"][0]["id"], "m");
    assert_eq!(worker.get("/v1/models/m").await.0, 200);
}
