//! From bytes to a facet, with errors that name the field.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::error::ApiError;

/// Longest part of a parser's message that is sent back: it may quote the client's own value.
const MESSAGE_CHARS_MAX: usize = 300;

/// What routing needs of a completion request, before anybody reads the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The model asked for.
    pub model: String,
    /// Whether the answer is a stream of events.
    pub stream: bool,
}

/// Reads model and stream from the body of a chat or completion request, checking nothing else.
/// Errors: not a JSON object; no `model`; a wrong type in either.
pub fn read_head(body: &[u8]) -> Result<RequestHead, ApiError> {
    #[derive(Deserialize)]
    struct Fields {
        model: Option<String>,
        stream: Option<bool>,
    }
    let fields: Fields = facet(body)?;
    let model = fields.model.ok_or_else(|| ApiError::missing("model"))?;
    Ok(RequestHead { model, stream: fields.stream.unwrap_or(false) })
}

/// Reads one facet of a request body, which must be one JSON object and nothing after it.
pub(super) fn facet<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(refusal)?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    ApiError::invalid_json(format!("the request body is not valid JSON: {}", shortened(&text)))
}

fn refusal(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let text = error.inner().to_string();
    // A number too large for its field is good JSON, whatever the parser calls it.
    let too_large = text.starts_with("number out of range");
    if error.inner().classify() != Category::Data && !too_large {
        return not_json(error.inner());
    }
    let path = error.path().to_string();
    let path = if path == "." { String::new() } else { path };
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(before, _)| before);
    if let Some(field) = text.strip_prefix("missing field `").and_then(|t| t.strip_suffix('`')) {
        let dot = if path.is_empty() { "" } else { "." };
        return ApiError::missing(format!("{path}{dot}{field}"));
    }
    if path.is_empty() {
        return ApiError::invalid_json(format!("the request body: {}", plain(text)));
    }
    let message = format!("`{path}`: {}", plain(text));
    if text.starts_with("invalid type") {
        ApiError::invalid_type(path, message)
    } else {
        ApiError::invalid_value(path, message)
    }
}

/// Rust's names of types, in the words of JSON.
fn plain(text: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("expected u32", "expected a non-negative integer"),
        ("expected i64", "expected an integer"),
        ("expected f32", "expected a number"),
        ("expected a sequence", "expected an array"),
        ("expected a map", "expected an object"),
        (": sequence", ": array"),
        (": map", ": object"),
        ("floating point", "number"),
    ];
    let mut text = shortened(text);
    for (rust, json) in WORDS {
        text = text.replace(rust, json);
    }
    text
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= MESSAGE_CHARS_MAX {
        return text.to_owned();
    }
    let half = MESSAGE_CHARS_MAX / 2;
    let start: String = text.chars().take(half).collect();
    let end: Vec<char> = text.chars().rev().take(half).collect();
    format!("{start} … {}", end.into_iter().rev().collect::<String>())
}

/// A `T` that is written as a JSON object only: serde's structs would also take arrays.
#[derive(Debug, Clone)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_any(Fields(PhantomData))
    }
}

/// A string, or an array of `T`; the path of a wrong element is kept.
#[derive(Debug, Clone)]
pub(super) enum TextOr<T> {
    /// `"…"`
    Text(String),
    /// `[…]`
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string or an array")
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(TextOr::List(items))
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}
