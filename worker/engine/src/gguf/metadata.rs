//! Metadata: the keys of a GGUF file and typed ways to read them.

use super::error::GgufError;
use super::value::{self, Strings, Value, ValueType};

/// A key and where its value lies.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) kind: ValueType,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The keys and values of a GGUF file. A getter returns `Ok(None)` for a key that is not there, and
/// an error naming the key when its value is of another type.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    /// Sorted by key.
    pub(super) entries: &'a [Entry],
    pub(super) bytes: &'a [u8],
}

impl<'a> Metadata<'a> {
    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.entries.iter().map(|entry| &*entry.key)
    }

    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        let index = self.entries.binary_search_by(|entry| (*entry.key).cmp(key)).ok()?;
        let entry = &self.entries[index];
        Some(value::decode(entry.kind, self.bytes.get(entry.start..entry.end)?))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "UTF-8 text", |value| match value {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// A number that counts or indexes something.
    pub fn unsigned(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.typed(key, "a whole number of at least zero", unsigned)
    }

    /// A float; a whole number counts as one.
    pub fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a number", float)
    }

    /// A truth value.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a truth value", |value| match value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// An array of texts, without a copy.
    pub fn texts(&self, key: &str) -> Result<Option<Strings<'a>>, GgufError> {
        self.typed(key, "an array of texts", |value| match value {
            Value::Array(array) => array.strings(),
            _ => None,
        })
    }

    /// An array of numbers that count or index something.
    pub fn unsigneds(&self, key: &str) -> Result<Option<Vec<usize>>, GgufError> {
        self.typed(key, "an array of whole numbers of at least zero", |value| match value {
            Value::Array(array) => array.iter().map(unsigned).collect(),
            _ => None,
        })
    }

    /// An array of floats.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::Array(array) => array.iter().map(float).collect(),
            _ => None,
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong =
            || GgufError::WrongType { key: key.to_owned(), expected, found: value.describe() };
        read(value).map(Some).ok_or_else(wrong)
    }
}

fn unsigned(value: Value<'_>) -> Option<usize> {
    match value {
        Value::Unsigned(value) => usize::try_from(value).ok(),
        Value::Signed(value) => usize::try_from(value).ok(),
        _ => None,
    }
}

fn float(value: Value<'_>) -> Option<f32> {
    match value {
        Value::Float(value) => Some(value as f32),
        Value::Unsigned(value) => Some(value as f32),
        Value::Signed(value) => Some(value as f32),
        _ => None,
    }
}
