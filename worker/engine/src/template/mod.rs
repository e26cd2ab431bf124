//! The checkpoint's chat template: a conversation in, the model's prompt out.
//!
//! Templates are Jinja as Hugging Face runs it; here minijinja runs them, with the functions and
//! filters that `transformers` gives them and no others. A template is a checkpoint's text and is
//! not trusted: it reads nothing but its variables, does a bounded amount of work and writes a
//! bounded amount of text.

mod checkpoint;
mod conversation;
mod date;
mod environment;
mod error;
mod json;

#[cfg(test)]
mod tests;

pub use date::UnixSeconds;
pub use error::TemplateError;

use minijinja::Environment;
use serde_json::{Map, Value};

/// A conversation and how to render it.
#[derive(Debug, Clone, Copy)]
pub struct ChatInput<'a> {
    /// The messages: a list of objects with a `role`, as the OpenAI API has them.
    pub messages: &'a Value,
    /// The tools that the model may call, as the OpenAI API has them.
    pub tools: Option<&'a Value>,
    /// Documents for templates that know them.
    pub documents: Option<&'a Value>,
    /// End with the beginning of the model's answer.
    pub add_generation_prompt: bool,
    /// End inside the last message, so that the model goes on with it.
    pub continue_final_message: bool,
    /// More variables (`chat_template_kwargs`); they override the others.
    pub kwargs: &'a Map<String, Value>,
    /// What `strftime_now` shows, in UTC.
    pub now: UnixSeconds,
}

/// A checkpoint's chat templates: the usual one, and for some checkpoints one for tools.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Special tokens by the names that templates know them by (`bos_token`).
    tokens: Map<String, Value>,
    has_tool_template: bool,
    /// The template reads a content given as a list of parts.
    reads_parts: bool,
}

/// The name of the usual template.
const DEFAULT: &str = "default";
/// The name of the template that is taken when tools are given.
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// Reads a checkpoint's only template. `tokens` are the variables for its special tokens:
    /// `bos_token`, `eos_token`, ….
    pub fn parse(source: &str, tokens: Map<String, Value>) -> Result<Self, TemplateError> {
        Self::parse_named(&[(DEFAULT, source)], tokens)
    }

    /// Reads `chat_template` of a `tokenizer_config.json`: one template, or a list of named ones.
    /// Errors: neither of the two; as [`Self::parse_named`].
    pub fn from_config(
        chat_template: &Value,
        tokens: Map<String, Value>,
    ) -> Result<Self, TemplateError> {
        let named = |entry: &'_ Value| {
            let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            Some((text("name")?, text("template")?))
        };
        match chat_template {
            Value::String(source) => Self::parse(source, tokens),
            Value::Array(entries) => {
                let entries: Option<Vec<_>> = entries.iter().map(named).collect();
                let entries = entries.ok_or(TemplateError::Shape)?;
                let borrowed: Vec<_> =
                    entries.iter().map(|(name, source)| (name.as_str(), source.as_str())).collect();
                Self::parse_named(&borrowed, tokens)
            }
            _ => Err(TemplateError::Shape),
        }
    }

    /// Reads a checkpoint's templates: `default` is used, and `tool_use` where tools are given;
    /// the others are not. A single one is used whatever its name.
    ///
    /// Errors: no `default`, a template that is no Jinja.
    pub fn parse_named(
        templates: &[(&str, &str)],
        tokens: Map<String, Value>,
    ) -> Result<Self, TemplateError> {
        let find = |wanted| templates.iter().find(|(name, _)| *name == wanted);
        let default = match templates {
            [only] => Some(only),
            _ => find(DEFAULT),
        };
        let &(_, default) = default.ok_or(TemplateError::NoDefault)?;
        let tool_use = find(TOOL_USE).map(|&(_, source)| source);
        let mut environment = environment::new();
        for (name, source) in [(DEFAULT, Some(default)), (TOOL_USE, tool_use)] {
            let Some(source) = source else { continue };
            environment
                .add_template_owned(name, environment::without_generation_tags(source))
                .map_err(|source| TemplateError::Parse { name, source })?;
        }
        let has_tool_template = tool_use.is_some();
        let mut template = Self { environment, tokens, has_tool_template, reads_parts: false };
        template.reads_parts = template.probe_parts();
        Ok(template)
    }

    /// The prompt for a conversation.
    ///
    /// Before the template sees them, messages are brought to the form that templates expect:
    /// arguments of tool calls that are JSON in a string become that JSON, and a content that is a
    /// list of text parts becomes their texts, a newline between, unless the template itself reads
    /// parts (found out once, by rendering a message that has some).
    ///
    /// Errors: the template refused the conversation, needed what it does not have, or would not
    /// come to an end; see [`TemplateError`].
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TemplateError> {
        if input.continue_final_message && input.add_generation_prompt {
            let message = "continue_final_message excludes add_generation_prompt";
            return Err(TemplateError::Refused { message: message.to_owned() });
        }
        let mut messages = conversation::normalise(input.messages, self.reads_parts)?;
        if input.continue_final_message {
            conversation::mark_end(messages.to_mut())?;
        }
        let rendered = self.run(input, &messages)?;
        if input.continue_final_message {
            return conversation::cut_at_mark(rendered);
        }
        Ok(rendered)
    }

    /// Whether the template itself reads a content given as a list of parts.
    pub fn reads_parts(&self) -> bool {
        self.reads_parts
    }

    fn run(&self, input: &ChatInput<'_>, messages: &Value) -> Result<String, TemplateError> {
        let tools = input.tools.filter(|tools| tools.as_array().is_none_or(|all| !all.is_empty()));
        let name = if self.has_tool_template && tools.is_some() { TOOL_USE } else { DEFAULT };
        let mut variables: Map<String, Value> = self.tokens.clone();
        variables.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        variables.insert("continue_final_message".into(), input.continue_final_message.into());
        variables.insert("tools".into(), tools.cloned().unwrap_or(Value::Null));
        variables.insert("documents".into(), input.documents.cloned().unwrap_or(Value::Null));
        variables.extend(input.kwargs.clone());
        environment::run(&self.environment, name, variables, messages, input.now)
    }

    /// Renders a message whose content is a list of parts: a template that reads parts shows the
    /// text alone, one that does not fails or shows the list as a list.
    fn probe_parts(&self) -> bool {
        let messages = serde_json::json!([
            {"role": "user", "content": [{"type": "text", "text": "naru-probe"}]},
        ]);
        let input = ChatInput {
            messages: &messages,
            tools: None,
            documents: None,
            add_generation_prompt: false,
            continue_final_message: false,
            kwargs: &Map::new(),
            now: UnixSeconds(0),
        };
        let shown = self.run(&input, &messages).unwrap_or_default();
        shown.contains("naru-probe")
            && !shown.contains("\"naru-probe\"")
            && !shown.contains("'naru-probe'")
    }
}
