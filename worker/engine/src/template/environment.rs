//! What a template can call, and within which bounds it runs.

use std::borrow::Cow;
use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use serde_json::Map;

use super::json::{self, Style};
use super::{TemplateError, UnixSeconds, date};

/// Work a template may do: each step costs one, each 64 bytes that it makes one more. The longest
/// real conversations need a tenth.
const FUEL: u64 = 4_000_000;

/// The longest prompt text: beyond what any context holds.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// An environment with what `transformers` gives to templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("only the default delimiters are used"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    // Jinja's own filters and functions that minijinja keeps apart (`truncate`, `joiner`, …).
    minijinja_contrib::add_to_environment(&mut environment);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Renders template `name`.
pub(super) fn run(
    environment: &Environment<'_>,
    name: &str,
    mut variables: Map<String, serde_json::Value>,
    messages: &serde_json::Value,
    now: UnixSeconds,
) -> Result<String, TemplateError> {
    let failed = |source: Error| failure(source);
    let template = environment.get_template(name).map_err(failed)?;
    variables.entry("messages").or_insert_with(|| messages.clone());
    variables.insert(NOW.to_owned(), now.0.into());
    let mut output = Bounded::default();
    template.render_captured_to(Value::from(Serde(&variables)), &mut output).map_err(failed)?;
    String::from_utf8(output.0).map_err(|_| TemplateError::Unbounded)
}

/// `{% generation %}` and its end mark which text the model wrote, for training; here they mean
/// nothing. Both become tags that change nothing and keep their whitespace signs.
pub(super) fn without_generation_tags(source: &str) -> Cow<'static, str> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        rest = tag;
        let name_at = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        for (name, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
            let Some(after) = tag[name_at..].strip_prefix(name) else { continue };
            if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                out.push_str(&tag[..name_at]);
                out.push_str(instead);
                rest = after;
                break;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

/// The variable that carries the date; no template can name it.
const NOW: &str = "now in unix seconds";

/// A text that may not grow beyond [`OUTPUT_BYTES_MAX`].
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a template said with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    let raised = Raised(message);
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
}

fn failure(error: Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(source) = cause {
        if let Some(Raised(message)) = source.downcast_ref() {
            return TemplateError::Refused { message: message.clone() };
        }
        let kind = source.downcast_ref::<Error>().map(Error::kind);
        if matches!(kind, Some(ErrorKind::OutOfFuel | ErrorKind::WriteFailure)) {
            return TemplateError::Unbounded;
        }
        cause = source.source();
    }
    TemplateError::Render { source: error }
}

fn strftime_now(state: &State<'_, '_>, format: &str) -> Result<String, Error> {
    let now = state.lookup(NOW).and_then(|now| now.as_i64()).unwrap_or_default();
    date::format(UnixSeconds(now), format).map_err(|unknown| {
        let detail = format!("strftime_now: `%{unknown}` is not supported");
        Error::new(ErrorKind::InvalidOperation, detail)
    })
}

/// `tojson` as `transformers` has it: Python's `json.dumps` with `ensure_ascii` off.
fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let ensure_ascii = ensure_ascii.or(named.get("ensure_ascii")?).unwrap_or(false);
    let indent = indent.or(named.get("indent")?);
    let separators = named.get::<Option<Value>>("separators")?;
    let sort_keys = named.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    named.assert_all_used()?;
    let style = Style::new(ensure_ascii, indent.as_ref(), separators.as_ref(), sort_keys)?;
    json::dumps(value, &style).map(Value::from)
}

/// Methods of Python's types: those of the contributed set, and a few that templates also use.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    use minijinja::value::from_args;
    let text = value.as_str();
    match (text, name) {
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        (Some(text), "partition") => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.split_once(separator).unwrap_or((text, ""));
            let found = &text[before.len()..text.len() - after.len()];
            Ok([before, found, after].into_iter().map(Value::from).collect())
        }
        (Some(text), "rsplit") => {
            let (separator, most): (&str, Option<usize>) = from_args(args)?;
            let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
            let mut pieces: Vec<&str> = text.rsplitn(most, separator).collect();
            pieces.reverse();
            Ok(pieces.into_iter().map(Value::from).collect())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}
