//! Whether what is wished is there already, so that nothing is written that changes nothing.

use serde_json::Value;

/// Whether every field of `wished` has the same value in `live`; what `live` has besides is
/// somebody else's, or a default. Lists must agree item by item.
pub(super) fn holds(live: &Value, wished: &Value) -> bool {
    match (live, wished) {
        (Value::Object(live), Value::Object(wished)) => {
            wished.iter().all(|(name, wished)| match live.get(name) {
                Some(live) => holds(live, wished),
                None => is_nothing(wished),
            })
        }
        (Value::Array(live), Value::Array(wished)) => {
            live.len() == wished.len()
                && live.iter().zip(wished).all(|(live, wished)| holds(live, wished))
        }
        (live, wished) => live == wished,
    }
}

/// What an API server leaves out when it is asked to store it.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(fact: &str, live: &Value, wished: &Value, expected: bool) {
        assert_eq!(holds(live, wished), expected, "{fact}");
    }

    #[test]
    fn what_is_there() {
        let live = json!({"a": 1, "b": {"c": [1, {"d": 2, "e": 3}]}});
        check("all of it", &live, &live, true);
        check("a part", &live, &json!({"b": {"c": [1, {"d": 2}]}}), true);
        check("another value", &live, &json!({"a": 2}), false);
        check("a field more", &live, &json!({"z": 1}), false);
        check("a field without anything in it", &live, &json!({"z": {}, "y": []}), true);
        check("an item more", &live, &json!({"b": {"c": [1, {"d": 2}, 3]}}), false);
        check("an item fewer", &live, &json!({"b": {"c": [1]}}), false);
    }
}
