//! What is refused, with which words, and what is read.

use naru_protocol::openai::{
    ApiError, ChatRequest, CompletionRequest, DetokenizeRequest, Prompt, TokenizeRequest, read_head,
};

/// A chat body with `fields` added.
fn chat(fields: &str) -> String {
    format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "hi"}}]{fields}}}"#)
}

/// A completion body with `fields` added.
fn completion(fields: &str) -> String {
    format!(r#"{{"model": "m", "prompt": "hi"{fields}}}"#)
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(
    fact: &str,
    read: Result<T, ApiError>,
    (param, code, part): (Option<&str>, &str, &str),
) {
    let error = read.expect_err(fact);
    assert_eq!(error.status, 400, "{fact}");
    assert_eq!(error.body.param.as_deref(), param, "{fact}: {error}");
    assert_eq!(error.body.code, Some(code), "{fact}: {error}");
    assert!(error.body.message.contains(part), "{fact}: {error}");
    assert!(error.body.message.chars().count() < 500, "{fact}: long message");
}

#[track_caller]
fn check_chat(fact: &str, body: &str, expected: (Option<&str>, &str, &str)) {
    check_refused(fact, ChatRequest::read(body.as_bytes()), expected);
}

#[track_caller]
fn check_field(fields: &str, param: &str, code: &str) {
    check_chat(fields, &chat(&format!(", {fields}")), (Some(param), code, param));
}

#[test]
fn bodies_that_are_no_request() {
    check_chat("empty", "", (None, "invalid_json", "not valid JSON"));
    check_chat("cut", r#"{"model": "m", "#, (None, "invalid_json", "not valid JSON"));
    check_chat("two values", &(chat("") + "{}"), (None, "invalid_json", "not valid JSON"));
    check_chat("an array", "[]", (None, "invalid_json", "expected an object"));
    check_chat("a number", "5", (None, "invalid_json", "expected an object"));
    check_chat("NaN", &chat(r#", "temperature": NaN"#), (None, "invalid_json", "not valid JSON"));
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let deep = chat(&format!(r#", "metadata": {deep}"#));
    check_chat("deep nesting", &deep, (None, "invalid_json", "recursion limit"));
    let bytes = ChatRequest::read(b"{\"model\": \"\xff\"}");
    check_refused("not UTF-8", bytes, (None, "invalid_json", "not valid JSON"));
}

#[test]
fn fields_that_are_missing_or_of_the_wrong_type() {
    check_chat(
        "no model",
        r#"{"messages": []}"#,
        (Some("model"), "missing_required_parameter", ""),
    );
    check_chat(
        "no messages",
        r#"{"model": ""}"#,
        (Some("messages"), "missing_required_parameter", ""),
    );
    for (fields, param) in [
        (r#""temperature": "warm""#, "temperature"),
        (r#""top_p": []"#, "top_p"),
        (r#""top_k": 1.5"#, "top_k"),
        (r#""min_p": {}"#, "min_p"),
        (r#""n": "2""#, "n"),
        (r#""stop": 5"#, "stop"),
        (r#""stop": ["a", 5]"#, "stop[1]"),
        (r#""seed": "x""#, "seed"),
        (r#""stream": 1"#, "stream"),
        (r#""stream": true, "stream_options": []"#, "stream_options"),
        (
            r#""stream": true, "stream_options": {"include_usage": 1}"#,
            "stream_options.include_usage",
        ),
        (r#""max_tokens": 1.5"#, "max_tokens"),
        (r#""max_completion_tokens": "9""#, "max_completion_tokens"),
        (r#""logprobs": 3"#, "logprobs"),
        (r#""logit_bias": [1]"#, "logit_bias"),
        (r#""logit_bias": {"5": "x"}"#, "logit_bias.5"),
        (r#""stop_token_ids": ["a"]"#, "stop_token_ids[0]"),
        (r#""tools": {}"#, "tools"),
        (r#""tools": [5]"#, "tools[0]"),
        (r#""tools": [{"type": "function", "function": []}]"#, "tools[0].function"),
        (r#""chat_template_kwargs": 5"#, "chat_template_kwargs"),
        (r#""add_generation_prompt": "no""#, "add_generation_prompt"),
        (r#""user": 5"#, "user"),
        (r#""metadata": "x""#, "metadata"),
    ] {
        check_field(fields, param, "invalid_type");
    }
    for (message, param, code) in [
        ("5", "messages[0]", "invalid_type"),
        (r#"["user", "hi"]"#, "messages[0]", "invalid_type"),
        (r#"{"content": "x"}"#, "messages[0].role", "missing_required_parameter"),
        (r#"{"role": "king", "content": "x"}"#, "messages[0].role", "invalid_value"),
        (r#"{"role": "user"}"#, "messages[0].content", "missing_required_parameter"),
        (r#"{"role": "user", "content": 5}"#, "messages[0].content", "invalid_type"),
        (r#"{"role": "user", "content": [5]}"#, "messages[0].content[0]", "invalid_type"),
        (
            r#"{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}"#,
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
    ] {
        let body = format!(r#"{{"model": "m", "messages": [{message}]}}"#);
        check_chat(message, &body, (Some(param), code, ""));
    }
}

#[test]
fn values_outside_of_their_range() {
    for (fields, param) in [
        (r#""temperature": -0.1"#, "temperature"),
        (r#""temperature": 1e39"#, "temperature"),
        (r#""top_p": 1.1"#, "top_p"),
        (r#""top_k": -2"#, "top_k"),
        (r#""min_p": -1"#, "min_p"),
        (r#""presence_penalty": 3"#, "presence_penalty"),
        (r#""frequency_penalty": -3"#, "frequency_penalty"),
        (r#""repetition_penalty": 0"#, "repetition_penalty"),
        (r#""n": 0"#, "n"),
        (r#""n": 100000"#, "n"),
        (r#""max_tokens": 0"#, "max_tokens"),
        (r#""min_tokens": 9, "max_tokens": 8"#, "min_tokens"),
        (r#""stop": """#, "stop"),
        (r#""top_logprobs": 3"#, "top_logprobs"),
        (r#""logprobs": true, "top_logprobs": 21"#, "top_logprobs"),
        (r#""logit_bias": {"x": 1}"#, "logit_bias"),
        (r#""logit_bias": {"7": 101}"#, "logit_bias.7"),
        (r#""stream_options": {}"#, "stream_options"),
    ] {
        check_field(fields, param, "invalid_value");
    }
    check_chat(
        "a negative length",
        &chat(r#", "max_tokens": -1"#),
        (Some("max_tokens"), "invalid_value", "expected a non-negative integer"),
    );
    let million = format!(r#", "stop": [{}"x"]"#, r#""x","#.repeat(1_000_000));
    check_chat("a million stops", &chat(&million), (Some("stop"), "invalid_value", "at most 16"));
    check_chat(
        "an empty conversation",
        r#"{"model": "m", "messages": []}"#,
        (Some("messages"), "invalid_value", "empty"),
    );
}

#[test]
fn promises_that_are_not_kept_yet() {
    for (fields, param) in [
        (r#""tool_choice": "required""#, "tool_choice"),
        (r#""tool_choice": {"type": "function", "function": {"name": "f"}}"#, "tool_choice"),
        (r#""response_format": {"type": "json_object"}"#, "response_format"),
        (r#""response_format": {"type": "json_schema", "json_schema": {}}"#, "response_format"),
        (r#""modalities": ["text", "audio"]"#, "modalities"),
        (r#""functions": []"#, "functions"),
        (r#""guided_json": {}"#, "guided_json"),
        (r#""structured_outputs": {"json": {}}"#, "structured_outputs"),
        (r#""prompt_logprobs": 1"#, "prompt_logprobs"),
        (r#""store": true"#, "store"),
        (
            r#""tools": [{"type": "function", "function": {"name": "f", "strict": true}}]"#,
            "tools[0].function.strict",
        ),
    ] {
        check_field(fields, param, "unsupported_parameter");
    }
    for (fields, param) in [
        (r#", "suffix": "x""#, "suffix"),
        (r#", "best_of": 3"#, "best_of"),
        (r#", "prompt_embeds": "x""#, "prompt_embeds"),
    ] {
        let read = CompletionRequest::read(completion(fields).as_bytes());
        check_refused(fields, read, (Some(param), "unsupported_parameter", param));
    }
}

#[test]
fn what_is_harmless_is_read() {
    for fields in [
        "",
        r#", "temperature": null, "stop": null, "tools": null, "response_format": null"#,
        r#", "tool_choice": "auto", "response_format": {"type": "text"}, "store": false"#,
        r#", "a_field_of_next_year": {"x": [1]}, "user": "u", "metadata": {"a": "b"}"#,
        r#", "modalities": ["text"], "logit_bias": {"1": -100}, "top_k": -1"#,
    ] {
        ChatRequest::read(chat(fields).as_bytes()).expect(fields);
    }
    let tools = r#", "tools": [{"type": "function", "function": {"name": "f", "x": 1}}]"#;
    let request = ChatRequest::read(chat(tools).as_bytes()).expect(tools);
    let kept = request.template.tools.expect("tools");
    assert_eq!(kept[0]["function"]["x"], 1, "keys nobody defined reach the template");
    let none = format!(r#"{tools}, "tool_choice": "none""#);
    let request = ChatRequest::read(chat(&none).as_bytes()).expect("none");
    assert!(request.template.tools.is_none(), "`none` hides the tools");
}

#[test]
fn prompts_in_their_four_forms() {
    #[track_caller]
    fn check(written: &str, expected: Vec<Prompt>) {
        let body = format!(r#"{{"model": "m", "prompt": {written}}}"#);
        assert_eq!(CompletionRequest::read(body.as_bytes()).expect(written).prompts, expected);
    }
    let text = |text: &str| Prompt::Text(text.into());
    check(r#""a""#, vec![text("a")]);
    check(r#"["a", "b"]"#, vec![text("a"), text("b")]);
    check("[1, 2]", vec![Prompt::Ids(vec![1, 2])]);
    check("[[1], [2, 3]]", vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]);
    for (written, param, code) in [
        ("[]", "prompt", "invalid_value"),
        ("[[]]", "prompt", "invalid_value"),
        (r#"[1, "a"]"#, "prompt", "invalid_value"),
        ("[-1]", "prompt[0]", "invalid_type"),
        ("[4294967296]", "prompt[0]", "invalid_value"),
        ("[[1, true]]", "prompt[0][1]", "invalid_type"),
        ("5", "prompt", "invalid_type"),
    ] {
        let body = format!(r#"{{"model": "m", "prompt": {written}}}"#);
        let read = CompletionRequest::read(body.as_bytes());
        check_refused(written, read, (Some(param), code, ""));
    }
}

#[test]
fn tokenize_takes_a_text_or_a_chat() {
    TokenizeRequest::read(br#"{"prompt": "a"}"#).expect("a text");
    TokenizeRequest::read(chat("").as_bytes()).expect("a chat");
    let read = TokenizeRequest::read(b"{}");
    check_refused("neither", read, (Some("prompt"), "missing_required_parameter", "prompt"));
    let read = DetokenizeRequest::read(br#"{"tokens": [1, -5]}"#);
    check_refused("a negative id", read, (Some("tokens[1]"), "invalid_value", "non-negative"));
}

#[test]
fn the_head_is_read_without_the_rest() {
    let head = read_head(br#"{"messages": 5, "model": "m", "stream": true}"#).expect("a head");
    assert_eq!((head.model.as_str(), head.stream), ("m", true));
    check_refused(
        "no model",
        read_head(b"{}"),
        (Some("model"), "missing_required_parameter", "model"),
    );
}
