//! Chat messages: what a client may put into `messages`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::read::{Object, TextOr};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, under OpenAI's newer name.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// As clients and templates write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One `{"type": "text", "text": …}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextPart(pub String);

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A plain string.
    Text(String),
    /// A list of text parts.
    Parts(Vec<TextPart>),
}

impl Content {
    fn for_template(&self) -> Value {
        match self {
            Self::Text(text) => text.clone().into(),
            Self::Parts(parts) => {
                parts.iter().map(|part| json!({"type": "text", "text": part.0})).collect()
            }
        }
    }
}

/// One message that passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// `None` only for an assistant that called tools.
    pub content: Option<Content>,
    /// The speaker's name.
    pub name: Option<String>,
    /// Calls the assistant made: `function.arguments` is already parsed JSON here.
    pub tool_calls: Vec<Value>,
    /// Which call a tool message answers.
    pub tool_call_id: Option<String>,
    /// The assistant's earlier thoughts, for templates that show them.
    pub reasoning_content: Option<String>,
}

impl Message {
    /// The message as a chat template gets it.
    pub fn for_template(&self) -> Value {
        let mut out = Map::new();
        out.insert("role".into(), self.role.as_str().into());
        let content = self.content.as_ref().map_or(Value::Null, Content::for_template);
        out.insert("content".into(), content);
        let texts = [
            ("name", &self.name),
            ("tool_call_id", &self.tool_call_id),
            ("reasoning_content", &self.reasoning_content),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                out.insert(key.into(), text.clone().into());
            }
        }
        if !self.tool_calls.is_empty() {
            out.insert("tool_calls".into(), self.tool_calls.clone().into());
        }
        Value::Object(out)
    }
}

/// A message as it is written.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Written {
    role: Role,
    content: Option<TextOr<Object<Part>>>,
    name: Option<String>,
    tool_calls: Option<Vec<Object<Call>>>,
    tool_call_id: Option<String>,
    reasoning_content: Option<String>,
    function_call: Option<serde::de::IgnoredAny>,
    audio: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Call {
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    function: Object<CallFunction>,
}

#[derive(Debug, Clone, Deserialize)]
struct CallFunction {
    name: String,
    arguments: Option<String>,
}

/// Checks every message. Errors name the path inside `messages`.
pub(super) fn check(written: Vec<Object<Written>>) -> Result<Vec<Message>, ApiError> {
    if written.is_empty() {
        return Err(ApiError::invalid_value("messages", "`messages` must not be empty"));
    }
    written.into_iter().enumerate().map(|(index, Object(one))| check_one(index, one)).collect()
}

fn check_one(index: usize, written: Written) -> Result<Message, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    if written.function_call.is_some() {
        return Err(ApiError::unsupported(at("function_call"), "use `tool_calls`"));
    }
    if written.audio.is_some() {
        return Err(ApiError::unsupported(at("audio"), "this server takes text only"));
    }
    let content = match written.content {
        None => None,
        Some(TextOr::Text(text)) => Some(Content::Text(text)),
        Some(TextOr::List(parts)) => Some(Content::Parts(check_parts(&at("content"), parts)?)),
    };
    let calls = written.tool_calls.unwrap_or_default();
    if content.is_none() && (written.role != Role::Assistant || calls.is_empty()) {
        return Err(ApiError::missing(at("content")));
    }
    if written.role == Role::Tool && written.tool_call_id.is_none() {
        return Err(ApiError::missing(at("tool_call_id")));
    }
    let tool_calls = calls
        .into_iter()
        .enumerate()
        .map(|(call, Object(written))| check_call(&at(&format!("tool_calls[{call}]")), written))
        .collect::<Result<_, _>>()?;
    Ok(Message {
        role: written.role,
        content,
        name: written.name,
        tool_calls,
        tool_call_id: written.tool_call_id,
        reasoning_content: written.reasoning_content,
    })
}

fn check_parts(path: &str, parts: Vec<Object<Part>>) -> Result<Vec<TextPart>, ApiError> {
    let check = |(index, Object(part)): (usize, Object<Part>)| {
        let at = |field: &str| format!("{path}[{index}].{field}");
        match part.kind.as_str() {
            "text" => part.text.map(TextPart).ok_or_else(|| ApiError::missing(at("text"))),
            "refusal" => part.refusal.map(TextPart).ok_or_else(|| ApiError::missing(at("refusal"))),
            _ => Err(ApiError::unsupported(at("type"), "this server takes text parts only")),
        }
    };
    parts.into_iter().enumerate().map(check).collect()
}

/// Clients send arguments as a string of JSON; templates want the object itself.
fn check_call(path: &str, call: Call) -> Result<Value, ApiError> {
    if call.kind.as_deref().is_some_and(|kind| kind != "function") {
        let why = "only calls of type `function` exist here";
        return Err(ApiError::unsupported(format!("{path}.type"), why));
    }
    let Object(function) = call.function;
    let arguments = match function.arguments.as_deref() {
        None | Some("") => json!({}),
        Some(text) => serde_json::from_str(text).map_err(|_| {
            let path = format!("{path}.function.arguments");
            let message = format!("`{path}` must be a string that holds JSON");
            ApiError::invalid_value(path, message)
        })?,
    };
    let mut out = Map::new();
    if let Some(id) = call.id {
        out.insert("id".into(), id.into());
    }
    out.insert("type".into(), "function".into());
    out.insert("function".into(), json!({"name": function.name, "arguments": arguments}));
    Ok(Value::Object(out))
}
