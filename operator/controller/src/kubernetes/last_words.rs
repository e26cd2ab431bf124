//! What a worker wrote last before it ended: the kubelet keeps the end of its log.

use serde_json::Value;

/// Longest words that are passed on.
const CHARACTERS_MAX: usize = 512;

/// The message of the last line that is an error; of a log without one, the last line.
pub(super) fn of(log: &str) -> Option<String> {
    let lines = || log.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let errors = lines().filter_map(|line| {
        let fields: Value = serde_json::from_str(line).ok()?;
        let is_error = fields.get("level").and_then(Value::as_str) == Some("ERROR");
        let message = fields.get("message").and_then(Value::as_str)?;
        is_error.then(|| message.to_owned())
    });
    let plain = lines().find(|line| !line.starts_with('{')).map(str::to_owned);
    let words = errors.into_iter().next().or(plain)?;
    Some(words.chars().take(CHARACTERS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fact: &str, log: &str, words: Option<&str>) {
        assert_eq!(of(log).as_deref(), words, "{fact}");
    }

    #[test]
    fn words() {
        let error = r#"{"timestamp":"t","level":"ERROR","message":"no such file"}"#;
        let info = r#"{"timestamp":"t","level":"INFO","message":"drained"}"#;
        check("an error", error, Some("no such file"));
        check("with more behind it", &format!("{error}\n{info}\n"), Some("no such file"));
        check("nothing", "", None);
        check("no error", info, None);
        check("a line that is cut", &format!("RROR\"}}\n{error}"), Some("no such file"));
        check("a panic", "thread 'main' panicked", Some("thread 'main' panicked"));
    }
}
