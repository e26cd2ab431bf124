//! JSON as Python's `json.dumps` writes it: templates were written, and models trained, with it.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// How `json.dumps` was asked to write.
pub(super) struct Style {
    ensure_ascii: bool,
    /// What one level is indented by; without it all is on one line.
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

/// Deeper values than any API accepts are refused, not recursed into.
const DEPTH_MAX: usize = 128;

fn invalid(detail: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

impl Style {
    /// The style of `json.dumps(…, ensure_ascii, indent, separators, sort_keys)`.
    pub(super) fn new(
        ensure_ascii: bool,
        indent: Option<&Value>,
        separators: Option<&Value>,
        sort_keys: bool,
    ) -> Result<Self, Error> {
        let indent = match indent {
            None => None,
            Some(indent) if indent.is_none() || indent.is_undefined() => None,
            Some(indent) => match (indent.as_str(), indent.as_i64()) {
                (Some(text), _) => Some(text.to_owned()),
                (None, Some(spaces @ ..=64)) => Some(" ".repeat(spaces.max(0) as usize)),
                _ => return Err(invalid("tojson: indent is neither text nor a small number")),
            },
        };
        let given = separators.filter(|given| !given.is_none() && !given.is_undefined());
        let (between_items, after_key) = match given {
            Some(given) => {
                let text = |at| given.get_item_by_index(at).map(|item| item.to_string());
                (text(0)?, text(1)?)
            }
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        Ok(Self { ensure_ascii, indent, between_items, after_key, sort_keys })
    }
}

/// `value` as JSON. Errors: an undefined value, or one that JSON cannot say.
pub(super) fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    let mut writer = Writer { out: String::new(), style, depth: 0 };
    writer.value(value)?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    style: &'a Style,
    depth: usize,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(['[', ']'], &items, |writer, item| writer.value(item))?;
            }
            ValueKind::Map => {
                let keys = value.try_iter()?;
                let mut entries = Vec::new();
                for key in keys {
                    let item = value.get_item(&key)?;
                    entries.push((key_text(&key)?, item));
                }
                if self.style.sort_keys {
                    entries.sort_by(|(left, _), (right, _)| left.cmp(right));
                }
                self.list(['{', '}'], &entries, |writer, (key, item)| {
                    writer.string(key);
                    writer.out.push_str(&writer.style.after_key);
                    writer.value(item)
                })?;
            }
            ValueKind::Undefined => return Err(invalid("tojson: the value is undefined")),
            _ => return Err(invalid("tojson: the value has no form in JSON")),
        }
        Ok(())
    }

    fn list<T>(
        &mut self,
        [open, close]: [char; 2],
        items: &[T],
        write: impl Fn(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == DEPTH_MAX {
            return Err(invalid("tojson: the value is nested too deeply"));
        }
        self.out.push(open);
        self.depth += 1;
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push_str(&self.style.between_items);
            }
            self.line();
            write(self, item)?;
        }
        self.depth -= 1;
        if !items.is_empty() {
            self.line();
        }
        self.out.push(close);
        Ok(())
    }

    /// Begins a new line where lines are indented.
    fn line(&mut self) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), self.depth));
        }
    }

    fn number(&mut self, value: &Value) {
        match f64::try_from(value.clone()) {
            Ok(number) if !value.is_integer() => self.out.push_str(&float(number)),
            _ => self.out.push_str(&value.to_string()),
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key as JSON has it: text. Python turns the other scalars into text.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Bool => Ok(key.is_true().to_string()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Number if key.is_integer() => Ok(key.to_string()),
        ValueKind::Number => Ok(f64::try_from(key.clone()).map_or_else(|_| key.to_string(), float)),
        _ => Err(invalid("tojson: a key has no form in JSON")),
    }
}

/// A float as Python's `repr` shows it: the shortest digits that read back the same, with an
/// exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let shown = format!("{number:e}");
        let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{number:?}")
}

#[cfg(test)]
mod tests {
    use minijinja::Value;
    use minijinja::value::Serde;
    use serde_json::json;

    use super::{Style, dumps, float};

    fn check(value: serde_json::Value, indent: Option<i64>, ascii: bool, shown: &str) {
        let indent = indent.map(Value::from);
        let style = Style::new(ascii, indent.as_ref(), None, false).unwrap();
        assert_eq!(dumps(&Value::from(Serde(&value)), &style).unwrap(), shown);
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        check(
            json!({"b": [1, 2.0, "한"], "a": null}),
            None,
            false,
            r#"{"b": [1, 2.0, "한"], "a": null}"#,
        );
        check(json!({"a": "한😀<'\u{7f}"}), None, true, r#"{"a": "\ud55c\ud83d\ude00<'\u007f"}"#);
        check(json!("\"\\\n\r\t\u{8}\u{c}\u{1}/"), None, false, r#""\"\\\n\r\t\b\f\u0001/""#);
        check(
            json!({"a": [], "b": {}, "c": [true]}),
            Some(2),
            false,
            "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    true\n  ]\n}",
        );
        check(json!([1, [2]]), Some(0), false, "[\n1,\n[\n2\n]\n]");
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let shown =
            [0.1, 1.0, -0.0, 1e16, 1e15, 1.5e-5, 1e-4, 1e22, 1e100, f64::INFINITY].map(float);
        let python = [
            "0.1",
            "1.0",
            "-0.0",
            "1e+16",
            "1000000000000000.0",
            "1.5e-05",
            "0.0001",
            "1e+22",
            "1e+100",
            "Infinity",
        ];
        assert_eq!(shown, python);
    }
}
