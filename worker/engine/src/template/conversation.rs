//! Messages as clients send them, brought to the form that templates expect.

use std::borrow::Cow;

use serde_json::Value;

use super::TemplateError;

/// Stands at the end of the last message while it is rendered. The space at its end tells whether
/// the template trims contents.
const MARK: &str = "naru:the-message-goes-on-here ";

fn refused(message: impl Into<String>) -> TemplateError {
    TemplateError::Refused { message: message.into() }
}

/// The messages as the template shall see them; see `ChatTemplate::render`.
pub(super) fn normalise(
    messages: &Value,
    keep_parts: bool,
) -> Result<Cow<'_, Value>, TemplateError> {
    let list = messages.as_array().ok_or_else(|| refused("`messages` is not a list"))?;
    if list.iter().any(|message| !message.is_object()) {
        return Err(refused("`messages` has an entry that is not an object"));
    }
    let flattens = |message: &Value| !keep_parts && message["content"].is_array();
    let calls = |message: &Value| message["tool_calls"].is_array();
    if !list.iter().any(|message| flattens(message) || calls(message)) {
        return Ok(Cow::Borrowed(messages));
    }
    let mut list = list.clone();
    for message in &mut list {
        if flattens(message) {
            message["content"] = flatten(&message["content"])?.into();
        }
        for call in
            message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten()
        {
            parse_arguments(call);
        }
    }
    Ok(Cow::Owned(Value::Array(list)))
}

/// The texts of a list of parts, a newline between. Error: a part that is no text.
fn flatten(parts: &Value) -> Result<String, TemplateError> {
    let text = |part: &Value| match part {
        Value::String(text) => Ok(text.clone()),
        part => part["text"].as_str().map(str::to_owned).ok_or_else(|| {
            let kind = part["type"].as_str().unwrap_or("unknown");
            refused(format!("this model reads text only, not content parts of type `{kind}`"))
        }),
    };
    let texts: Result<Vec<_>, _> = parts.as_array().into_iter().flatten().map(text).collect();
    Ok(texts?.join("\n"))
}

/// Templates write a call's arguments as JSON themselves, so a string that is JSON becomes it.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    let parsed = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let Some(parsed @ (Value::Object(_) | Value::Array(_))) = parsed {
        *arguments = parsed;
    }
}

/// Appends the mark to the last message's text.
pub(super) fn mark_end(messages: &mut Value) -> Result<(), TemplateError> {
    let content = messages.as_array_mut().and_then(|list| list.last_mut()?.get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => parts.last_mut().and_then(|part| part.get_mut("text")),
        content => content,
    };
    match text {
        Some(Value::String(text)) => {
            text.push_str(MARK);
            Ok(())
        }
        _ => Err(refused("continue_final_message needs a last message with a text")),
    }
}

/// Ends the prompt where the mark stands.
pub(super) fn cut_at_mark(mut rendered: String) -> Result<String, TemplateError> {
    let Some(at) = rendered.rfind(MARK.trim_end()) else {
        return Err(refused(
            "continue_final_message: this model's template hides the last message",
        ));
    };
    let trims = !rendered[at..].starts_with(MARK);
    rendered.truncate(at);
    if trims {
        rendered.truncate(rendered.trim_end().len());
    }
    Ok(rendered)
}
