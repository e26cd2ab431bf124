//! YAML as data, bounded: aliases cannot blow a small text up into a large value.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::problem::{Finding, ProblemReason};

/// Longest text of one file; an API server takes objects of about this size.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most documents in one file.
const DOCUMENTS_MAX: usize = 1024;
/// Most values in one document once its aliases are replaced by what they stand for.
const NODES_MAX: usize = 20_000;

/// The documents of `text` with their numbers, counted from 1, empty ones left out.
///
/// Nesting is limited to 128 levels by the parser itself.
pub(crate) fn documents(text: &str) -> Vec<(usize, Result<Value, Finding>)> {
    let refuse = |message: String| Finding::new("", ProblemReason::NotYaml, message);
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("{} bytes: at most {TEXT_BYTES_MAX} are read", text.len());
        return vec![(1, Err(refuse(message)))];
    }
    let mut documents = Vec::new();
    for (number, document) in (1..).zip(serde_norway::Deserializer::from_str(text)) {
        if number > DOCUMENTS_MAX {
            let message = format!("at most {DOCUMENTS_MAX} documents in one file");
            documents.push((number, Err(refuse(message))));
            break;
        }
        let left = Cell::new(NODES_MAX);
        match (Node { left: &left }).deserialize(document) {
            Ok(Value::Null) => {}
            Ok(value) => documents.push((number, Ok(value))),
            Err(source) => {
                documents.push((number, Err(refuse(source.to_string()))));
                break; // after a syntax error the rest has no meaning
            }
        }
    }
    documents
}

/// Reads one value and everything in it, as long as `left` lasts.
#[derive(Clone, Copy)]
struct Node<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            return Err(D::Error::custom(format!("more than {NODES_MAX} values")));
        };
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, list, text, number, true, false or null without a tag")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("neither NaN nor infinity is a value"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} stands here twice")));
            }
            map.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(fact: &str, text: &str, expected: &[(usize, Value)]) {
        let read: Vec<_> =
            documents(text).into_iter().map(|(n, value)| (n, value.expect(fact))).collect();
        assert_eq!(read, expected, "{fact}");
    }

    #[track_caller]
    fn refused(fact: &str, text: &str, words: &str) {
        let last = documents(text).pop().expect(fact).1;
        let message = last.expect_err(fact).message;
        assert!(message.contains(words), "{fact}: {message}");
    }

    #[test]
    fn reads() {
        check("nothing", "", &[]);
        check("a comment is nothing", "# hello", &[]);
        check(
            "one document",
            "a: [1, 2.5, x, null, true]",
            &[(1, json!({"a": [1, 2.5, "x", null, true]}))],
        );
        check("empty documents keep their number", "---\n---\na: 1\n", &[(2, json!({"a": 1}))]);
        check("an alias", "a: &x {b: 1}\nc: *x", &[(1, json!({"a": {"b": 1}, "c": {"b": 1}}))]);
    }

    #[test]
    fn bounds() {
        let mut bomb = String::from("a0: &a0 [1]\n");
        for n in 1..30 {
            bomb += &format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1);
        }
        refused("a bomb of aliases", &bomb, "more than 20000 values");
        refused("a deep nest", &"[".repeat(100_000), "recursion limit");
        refused("a long text", &" ".repeat((1 << 20) + 1), "at most");
        refused("many documents", &"--- 1\n".repeat(1025), "at most 1024 documents");
        refused("a key twice", "a: 1\na: 2", "\"a\" stands here twice");
        refused("a tag", "a: !x {b: 1}", "without a tag");
        refused("not a number", "a: .nan", "neither NaN");
        refused("bad syntax", "a: [1", "line 2");
    }
}
