//! Fields that are known, are not offered, and would change the answer: a 400, never silence.
//! The list below is the specification. `null` counts as absent.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::error::ApiError;

/// One field, which of its values do no harm, and what to tell the others.
struct Rule(&'static str, fn(&Value) -> bool, &'static str);

const NO_STRUCTURE: &str = "structured output is not enforced yet";
const NO_FUNCTIONS: &str = "use `tools` and `tool_choice`";
const NO_LIST: &str = "not offered by this server";
const TEXT_ONLY: &str = "this server answers with text only";

const RULES: &[Rule] = &[
    Rule("tool_choice", is_free_choice, "only `none` and `auto` are enforced yet"),
    Rule("response_format", is_text_format, NO_STRUCTURE),
    Rule("functions", never, NO_FUNCTIONS),
    Rule("function_call", never, NO_FUNCTIONS),
    Rule("audio", never, TEXT_ONLY),
    Rule("modalities", is_text_modality, TEXT_ONLY),
    Rule("prediction", never, NO_LIST),
    Rule("web_search_options", never, "this server calls nobody"),
    Rule("store", is_false, "this server keeps nothing"),
    Rule("verbosity", never, NO_LIST),
    Rule("suffix", is_empty_text, NO_LIST),
    Rule("use_beam_search", is_false, NO_LIST),
    Rule("length_penalty", is_one, NO_LIST),
    Rule("prompt_embeds", never, NO_LIST),
    Rule("prompt_logprobs", never, NO_LIST),
    Rule("truncate_prompt_tokens", never, NO_LIST),
    Rule("allowed_token_ids", never, NO_LIST),
    Rule("bad_words", is_empty_list, NO_LIST),
    Rule("logits_processors", never, NO_LIST),
    Rule("chat_template", never, "the checkpoint's own template is used"),
    Rule("guided_json", never, NO_STRUCTURE),
    Rule("guided_regex", never, NO_STRUCTURE),
    Rule("guided_choice", never, NO_STRUCTURE),
    Rule("guided_grammar", never, NO_STRUCTURE),
    Rule("structural_tag", never, NO_STRUCTURE),
    Rule("structured_outputs", never, NO_STRUCTURE),
    Rule("grammar", never, NO_STRUCTURE),
    Rule("json_schema", never, NO_STRUCTURE),
    Rule("mm_processor_kwargs", never, TEXT_ONLY),
    Rule("return_tokens_as_token_ids", is_false, NO_LIST),
    Rule("return_token_ids", is_false, NO_LIST),
    Rule("kv_transfer_params", never, NO_LIST),
    Rule("thinking_token_budget", never, NO_LIST),
];

/// Fields that change nothing here but have a type that clients rely on being checked.
const TYPED: &[Rule] = &[
    Rule("user", Value::is_string, "a string"),
    Rule("safety_identifier", Value::is_string, "a string"),
    Rule("prompt_cache_key", Value::is_string, "a string"),
    Rule("service_tier", Value::is_string, "a string"),
    Rule("metadata", Value::is_object, "an object"),
    Rule("parallel_tool_calls", Value::is_boolean, "a boolean"),
];

fn never(_: &Value) -> bool {
    false
}
fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}
fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}
fn is_empty_text(value: &Value) -> bool {
    value.as_str() == Some("")
}
fn is_empty_list(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}
fn is_free_choice(value: &Value) -> bool {
    matches!(value.as_str(), Some("none" | "auto"))
}
fn is_text_format(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str) == Some("text")
}
fn is_text_modality(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(|one| one.as_str() == Some("text")))
}

/// The facet that looks for refused fields: what it found, if anything.
pub(super) struct Refused(Option<ApiError>);

impl Refused {
    pub(super) fn check(self) -> Result<(), ApiError> {
        self.0.map_or(Ok(()), Err)
    }
}

impl<'de> Deserialize<'de> for Refused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Refused;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = None;
                while let Some(key) = map.next_key::<String>()? {
                    let rule = RULES.iter().find(|rule| rule.0 == key);
                    let typed = TYPED.iter().find(|rule| rule.0 == key);
                    if rule.is_none() && typed.is_none() {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let value: Value = map.next_value()?;
                    let error = judge(&value, rule, typed);
                    found = found.or(error);
                }
                Ok(Refused(found))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

fn judge(value: &Value, rule: Option<&Rule>, typed: Option<&Rule>) -> Option<ApiError> {
    if value.is_null() {
        return None;
    }
    if let Some(Rule(name, harmless, why)) = rule {
        return (!harmless(value)).then(|| ApiError::unsupported(*name, why));
    }
    let Rule(name, fits, kind) = typed?;
    (!fits(value)).then(|| ApiError::invalid_type(*name, format!("`{name}` must be {kind}")))
}
