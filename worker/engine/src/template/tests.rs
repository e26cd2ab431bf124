use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{ChatInput, ChatTemplate, TemplateError, UnixSeconds};

const TURNS: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}\
                     {% if add_generation_prompt %}[assistant]{% endif %}";

fn parse(source: &str) -> ChatTemplate {
    ChatTemplate::parse(source, Map::new()).unwrap()
}

/// Renders `source` with `messages`, for the model's answer.
fn render(source: &str, messages: &Value) -> Result<String, TemplateError> {
    parse(source).render(&input(messages))
}

fn input(messages: &Value) -> ChatInput<'_> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    ChatInput {
        messages,
        tools: None,
        documents: None,
        add_generation_prompt: true,
        continue_final_message: false,
        kwargs: &NONE,
        now: UnixSeconds(1_772_269_507),
    }
}

/// What the template `source` shows for no messages.
fn check(source: &str, shown: &str) {
    assert_eq!(render(source, &json!([])).unwrap(), shown, "{source}");
}

#[test]
fn templates_can_call_what_transformers_gives_them() {
    check("{{ strftime_now('%d %b %Y') }}", "28 Feb 2026");
    check("{{ {'b': 1, 'a': '<한>'} | tojson }}", r#"{"b": 1, "a": "<한>"}"#);
    check("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", r#"{"a": 2, "b": 1}"#);
    check("{{ ['é'] | tojson(ensure_ascii=true, separators=(',', ':')) }}", r#"["\u00e9"]"#);
    check("{{ [1, {}] | tojson(indent=2) }}", "[\n  1,\n  {}\n]");
    check("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01");
    check("{{ 'a-b-c'.split('-') | last }}{{ 'xay'.strip('xy') }}", "ca");
    check("{{ 'a/b/c'.rsplit('/', 1) | first }}{{ 'abc'.removeprefix('a') }}", "a/bbc");
    check("{{ 'a:b'.partition(':')[2] }}{{ 'a'.partition(':') | join('|') }}", "ba||");
    check("{{ 'ab'.removesuffix('b') ~ {'k': 1}.get('x', 2) }}", "a2");
    check("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "1");
    check("a\n  {% if true %}\n  b\n  {% endif %}\nc", "a\n  b\nc");
    check("{% generation %}a{% endgeneration %}", "a");
    check("{%- generation -%}\n a \n{%- endgeneration -%} b", "ab");
    check("{% set generation = 1 %}{{ generation }}", "1");
    check(
        "{{ tools is none }} {{ documents is none }} {{ missing is defined }}",
        "True True False",
    );
}

#[test]
fn a_template_may_refuse_a_conversation() {
    let source = "{{ raise_exception('roles must ' ~ 'alternate') }}";
    let refused = render(source, &json!([])).unwrap_err();
    assert_eq!(refused.to_string(), "roles must alternate");
    assert!(refused.is_request_fault());
    let missing = render("{{ messages[0].content + 'x' }}", &json!([])).unwrap_err();
    assert!(matches!(missing, TemplateError::Render { .. }), "{missing:?}");
    for (messages, said) in [
        (json!({}), "`messages` is not a list"),
        (json!(["hi"]), "`messages` has an entry that is not an object"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "this model reads text only, not content parts of type `image_url`",
        ),
    ] {
        assert_eq!(render(TURNS, &messages).unwrap_err().to_string(), said);
    }
}

#[test]
fn a_template_that_is_no_jinja_is_named() {
    let error = ChatTemplate::parse("{% if %}", Map::new()).unwrap_err();
    assert_eq!(error.to_string(), "parsing the chat template `default`");
    assert!(!error.is_request_fault());
}

#[test]
fn a_hostile_template_comes_to_an_end() {
    let check = |source: &str| match parse(source).render(&input(&json!([]))) {
        Err(TemplateError::Unbounded | TemplateError::Render { .. }) => {}
        other => panic!("{source}: {:?}", other.map(|text| text.len())),
    };
    check("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}");
    check("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    check("{{ 'x' * 1000000000000 }}");
    check(
        "{% set ns = namespace(s='x') %}\
         {% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    );
    check("{% set x = 'x' * 9000000 %}{{ x }}{{ x }}");
    check("{{ '%999999999d' | format(1) }}");
    check("{% include 'default' %}");
    check("{{ ''.__class__.__mro__ }}");
    check("{{ ([1] * 5000) | map('string') | list | tojson * 10000 }}");
}

#[test]
fn texts_in_parts_are_joined_where_the_template_reads_texts() {
    let messages = json!([{"role": "user", "content": [
        {"type": "text", "text": "one"}, {"type": "text", "text": "two"},
    ]}]);
    assert_eq!(render(TURNS, &messages).unwrap(), "[user] one\ntwo\n[assistant]");
    let reads_parts = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
                       {% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}";
    assert!(parse(reads_parts).reads_parts());
    assert_eq!(render(reads_parts, &messages).unwrap(), "<one><two>");
    assert!(!parse("{{ messages | tojson }}").reads_parts());
}

#[test]
fn arguments_of_calls_become_json() {
    let source = "{% for m in messages %}{% for c in m.tool_calls %}\
                  {{ c.function.arguments | tojson }};{% endfor %}{% endfor %}";
    let call = |arguments: Value| json!({"function": {"name": "f", "arguments": arguments}});
    let messages = json!([{"role": "assistant", "tool_calls": [
        call(json!("{\"b\":1,  \"a\":[]}")), call(json!({"x": 1})),
        call(json!("not json")), call(json!("7")),
        {"function": {}}, 3,
    ]}]);
    let shown = render(&source.replace("c in m.tool_calls", "c in m.tool_calls[:4]"), &messages);
    assert_eq!(shown.unwrap(), r#"{"b": 1, "a": []};{"x": 1};"not json";"7";"#);
}

#[test]
fn the_last_message_can_be_gone_on_with() {
    let trimming = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}</s>{% endfor %}";
    let keeping = "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}";
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let messages = |text: &str| json!([said("user", "hi"), said("assistant", text)]);
    let check = |source: &str, text: &str, shown: &str| {
        let messages = messages(text);
        let input = ChatInput {
            add_generation_prompt: false,
            continue_final_message: true,
            ..input(&messages)
        };
        assert_eq!(parse(source).render(&input).unwrap(), shown);
    };
    check(keeping, "Sure, ", "[user] hi</s>[assistant] Sure, ");
    check(trimming, "Sure, ", "[user] hi</s>[assistant] Sure,");
    check(keeping, "", "[user] hi</s>[assistant] ");
    check(keeping, "hi", "[user] hi</s>[assistant] hi");

    let messages = messages("x");
    let both = ChatInput { continue_final_message: true, ..input(&messages) };
    assert!(matches!(parse(keeping).render(&both), Err(TemplateError::Refused { .. })));
    let hidden = ChatInput { add_generation_prompt: false, ..both };
    assert!(matches!(parse("").render(&hidden), Err(TemplateError::Refused { .. })));
    let empty = json!([]);
    let nothing = ChatInput { messages: &empty, ..hidden };
    assert!(matches!(parse(keeping).render(&nothing), Err(TemplateError::Refused { .. })));
}

#[test]
fn a_checkpoint_may_have_several_templates() {
    let template = |templates: &[(&str, &str)]| ChatTemplate::parse_named(templates, Map::new());
    let both = template(&[("rag", "R"), ("tool_use", "T"), ("default", "D")]).unwrap();
    let messages = json!([]);
    let (none, some) = (json!([]), json!([{"type": "function"}]));
    let shown = |tools| both.render(&ChatInput { tools, ..input(&messages) }).unwrap();
    assert_eq!([shown(None), shown(Some(&none)), shown(Some(&some))], ["D", "D", "T"]);
    assert!(template(&[("only", "{{ 1 }}")]).is_ok());
    let error = template(&[("a", ""), ("b", "")]).unwrap_err();
    assert!(matches!(error, TemplateError::NoDefault), "{error:?}");

    let listed =
        json!([{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]);
    assert!(ChatTemplate::from_config(&listed, Map::new()).is_ok());
    for config in [json!(1), json!([1]), json!([{"name": "default"}])] {
        let error = ChatTemplate::from_config(&config, Map::new()).unwrap_err();
        assert!(matches!(error, TemplateError::Shape), "{error:?}");
    }
}

#[test]
fn more_variables_override_the_usual_ones() {
    let kwargs = json!({"enable_thinking": false, "eos_token": "E"});
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let source = "{{ bos_token }}{{ eos_token }}{{ enable_thinking }}";
    let template = ChatTemplate::parse(source, tokens.as_object().unwrap().clone()).unwrap();
    let messages = json!([]);
    let input = ChatInput { kwargs: kwargs.as_object().unwrap(), ..input(&messages) };
    assert_eq!(template.render(&input).unwrap(), "<s>EFalse");
}

#[test]
fn the_longest_conversations_fit_the_bounds() {
    let turn = |n: usize| {
        let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
        json!({"role": role, "content": "나루터에서 배를 기다립니다. ".repeat(12)})
    };
    let messages = Value::from((0..8_000).map(turn).collect::<Vec<_>>());
    assert!(render(TURNS, &messages).unwrap().len() > 3 << 20);
}

/// JSON of any shape.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,8}".prop_map(Value::from),
        Just(json!("user")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key =
            prop_oneof!["role", "content", "tool_calls", "function", "arguments", "text", ".{0,3}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_conversation_panics(
        messages in proptest::collection::vec(json_value(), 0..4).prop_map(Value::from),
        go_on in any::<bool>(),
    ) {
        let input = ChatInput {
            add_generation_prompt: !go_on,
            continue_final_message: go_on,
            tools: Some(&messages),
            ..input(&messages)
        };
        let _ = parse(TURNS).render(&input);
        let _ = parse("{{ messages | tojson(indent=1) }}{{ tools }}").render(&input);
    }

    #[test]
    fn no_template_panics(
        pieces in proptest::collection::vec(prop_oneof![
            proptest::sample::select(vec![
                "{%", "%}", "{{", "}}", "{#", "#}", "-", "+", " generation ",
                "endgeneration", " if ", "for",
                " in ", "messages", "endif", "endfor", "|", "tojson", "(", ")", "[",
                "]", "'", "\"", "1",
                "set ", "=", "~", ".", "raise_exception", "strftime_now", "%", "한", "macro", "\n",
            ]).prop_map(str::to_owned),
            ".{0,3}",
        ], 0..24),
    ) {
        if let Ok(template) = ChatTemplate::parse(&pieces.concat(), Map::new()) {
            let _ = template.render(&input(&json!([{"role": "user", "content": "x"}])));
        }
    }
}
