//! A raw document against its kind's own schema, the way an API server checks it.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{Draft, ValidationError};
use serde_json::{Value, json};

use crate::problem::{Finding, ProblemReason};

/// Longest value repeated in a message.
const SHOWN_BYTES_MAX: usize = 64;

/// Everything in `object` that `schema` (a CRD's openAPIV3Schema) does not allow.
pub(crate) fn check(schema: &Value, object: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    unknown_fields(schema, object, "", &mut findings);
    let options = jsonschema::options().with_draft(Draft::Draft4).should_validate_formats(true);
    let validator = options.build(&plain(schema));
    let validator = validator.expect("the schema of a generated definition compiles");
    findings.extend(validator.iter_errors(object).map(|error| explain(&error, object)));
    findings
}

/// Removes what is null: for a field that is not nullable it means "not given".
pub(crate) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Kubernetes' own keywords in JSON Schema's terms.
fn plain(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut plain: serde_json::Map<_, _> = map
                .iter()
                .filter(|(key, _)| !key.starts_with("x-kubernetes-"))
                .map(|(key, value)| (key.clone(), self::plain(value)))
                .collect();
            if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                plain.insert("type".into(), json!(["integer", "string"]));
            }
            Value::Object(plain)
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        other => other.clone(),
    }
}

fn unknown_fields(schema: &Value, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    match value {
        Value::Object(map) => {
            let Some(known) = schema.get("properties").and_then(Value::as_object) else { return };
            for (key, value) in map {
                let path = join(path, key);
                if let Some(schema) = known.get(key) {
                    unknown_fields(schema, value, &path, findings);
                    continue;
                }
                let names: Vec<_> = known.keys().map(String::as_str).collect();
                let message = format!("unknown field; known here: {}", names.join(", "));
                findings.push(Finding::new(&path, ProblemReason::UnknownField, message));
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                unknown_fields(schema, item, &format!("{path}[{index}]"), findings);
            }
        }
        _ => {}
    }
}

fn explain(error: &ValidationError<'_>, object: &Value) -> Finding {
    let pointer = error.instance_path().to_string();
    let mut path = field_path(&pointer, object);
    let value = object.pointer(&pointer).map_or_else(String::new, shown);
    let message = match error.kind() {
        ValidationErrorKind::Required { property } => {
            path = join(&path, property.as_str().unwrap_or_default());
            "is required".to_owned()
        }
        ValidationErrorKind::Type { kind } => format!("must be {}, not {value}", types(kind)),
        ValidationErrorKind::Enum { options } => format!("must be one of {options}, not {value}"),
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}, not {value}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}, not {value}"),
        ValidationErrorKind::Pattern { pattern } => format!("must match {pattern}, not {value}"),
        ValidationErrorKind::Format { .. } => {
            format!("must be a time like 2027-01-01T00:00:00Z, not {value}")
        }
        ValidationErrorKind::MaxProperties { limit } => {
            format!("must have at most {limit} entries")
        }
        ValidationErrorKind::MinLength { limit } => {
            format!("must have at least {limit} characters")
        }
        ValidationErrorKind::MaxLength { limit } => format!("must have at most {limit} characters"),
        ValidationErrorKind::MinItems { limit } => format!("must have at least {limit} items"),
        ValidationErrorKind::MaxItems { limit } => format!("must have at most {limit} items"),
        _ => error.masked().to_string(),
    };
    Finding::new(&path, ProblemReason::Invalid, message)
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(kind) => format!("of type {kind}"),
        TypeKind::Multiple(_) => "a whole number or text".to_owned(),
    }
}

/// A value as JSON, cut to a bounded length.
fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > SHOWN_BYTES_MAX {
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// A JSON pointer into `object` as users write paths: `spec.model.names[0]`.
fn field_path(pointer: &str, object: &Value) -> String {
    let mut path = String::new();
    let mut here = Some(object);
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        match here {
            Some(Value::Array(items)) => {
                path = format!("{path}[{token}]");
                here = token.parse::<usize>().ok().and_then(|index| items.get(index));
            }
            _ => {
                path = join(&path, &token);
                here = here.and_then(|value| value.get(&token));
            }
        }
    }
    path
}

pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}
