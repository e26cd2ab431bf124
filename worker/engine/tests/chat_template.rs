//! Chat templates render what jinja2 renders, set up as `transformers` sets it up: the templates of
//! both real checkpoints, and one of our own that uses what others use. `conversations.py` beside
//! the goldens makes them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod checkpoints;

use checkpoints::{QWEN, QWEN_TOKENIZER, SMOLLM2};
use naru_engine::{ChatInput, ChatTemplate, ModelFiles, TemplateError, Tokenizer, UnixSeconds};
use serde_json::{Map, Value, json};

const GOLDENS: &str = include_str!("chat_template/goldens.json");
const DATED: &str = include_str!("chat_template/dated.jinja");

fn of_checkpoint(model: &ModelFiles) -> ChatTemplate {
    let tokenizer = Tokenizer::of_model(model).expect("its tokenizer is built");
    ChatTemplate::of_model(model, &tokenizer).expect("its template parses").expect("it has one")
}

fn dated() -> ChatTemplate {
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
    ChatTemplate::parse(DATED, tokens.as_object().unwrap().clone()).expect("it parses")
}

fn check(name: &str, template: &ChatTemplate) {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    for case in goldens["cases"].as_array().unwrap() {
        let kwargs = case["kwargs"].as_object().cloned().unwrap_or_default();
        let rendered = template.render(&ChatInput {
            messages: &case["messages"],
            tools: case.get("tools"),
            documents: case.get("documents"),
            add_generation_prompt: case["add_generation_prompt"] == true,
            continue_final_message: false,
            kwargs: &kwargs,
            now: UnixSeconds(goldens["now"].as_i64().unwrap()),
        });
        let what = case["name"].as_str().unwrap();
        let golden = &goldens["goldens"][name][what];
        match (rendered, golden) {
            (Ok(text), golden) => assert_eq!(json!({"rendered": text}), *golden, "{name}: {what}"),
            (Err(TemplateError::Refused { message }), golden) => {
                assert_eq!(json!({"refused": message}), *golden, "{name}: {what}");
            }
            (Err(TemplateError::Render { source }), golden) => {
                assert!(golden["fails"].is_string(), "{name}: {what}: {source:#}");
            }
            (Err(other), _) => panic!("{name}: {what}: {other}"),
        }
    }
}

#[test]
fn smollm2_renders_as_jinja2_does() {
    check(SMOLLM2, &of_checkpoint(&checkpoints::open(SMOLLM2)));
}

#[test]
fn qwen2_renders_as_jinja2_does() {
    check(QWEN, &of_checkpoint(&checkpoints::open(QWEN)));
}

#[test]
fn qwen2_renders_the_same_from_its_tokenizer_config() {
    let (_directory, files) = checkpoints::around_tokenizer(QWEN_TOKENIZER);
    check(QWEN, &of_checkpoint(&files));
}

#[test]
fn a_template_with_dates_tools_and_thoughts_renders_as_jinja2_does() {
    check("dated.jinja", &dated());
}

#[test]
fn a_hand_checked_prompt() {
    let messages = json!([{"role": "user", "content": [{"type": "text", "text": "안녕"}]}]);
    let rendered = of_checkpoint(&checkpoints::open(SMOLLM2)).render(&ChatInput {
        messages: &messages,
        tools: None,
        documents: None,
        add_generation_prompt: true,
        continue_final_message: false,
        kwargs: &Map::new(),
        now: UnixSeconds(0),
    });
    let prompt = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by \
                  Hugging Face<|im_end|>\n<|im_start|>user\n안녕<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(rendered.unwrap(), prompt);
}
