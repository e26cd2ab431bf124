//! What a worker wrote last before it ended: the end of its log, of which it tells people and us.

use naru_protocol::log;
use naru_protocol::worker::v1::WeightsFault;
use serde_json::Value;

/// Longest words that are passed on.
const CHARACTERS_MAX: usize = 512;

/// The end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastWords {
    pub(crate) words: String,
    /// What of the weights was wrong, if the log says so.
    pub(crate) fault: WeightsFault,
    /// Whether it says that there is no GPU to compute on.
    pub(crate) lacks_gpu: bool,
}

/// The last line that is an error; of a log without one, the last line.
pub(crate) fn of(log: &str) -> Option<LastWords> {
    let lines = || log.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let errors = lines().filter_map(|line| {
        let fields: Value = serde_json::from_str(line).ok()?;
        let is_error = fields.get("level").and_then(Value::as_str) == Some("ERROR");
        let message = fields.get("message").and_then(Value::as_str)?;
        let fault = fields.get("weights_fault").and_then(Value::as_str);
        let fault = fault.and_then(WeightsFault::from_str_name).unwrap_or_default();
        let lacks_gpu = fields.get(log::FAULT).is_some_and(|fault| fault == log::NO_USABLE_GPU);
        is_error.then(|| (message.to_owned(), fault, lacks_gpu))
    });
    let plain = lines().find(|line| !line.starts_with('{')).map(str::to_owned);
    let plain = plain.map(|words| (words, WeightsFault::Unspecified, false));
    let (words, fault, lacks_gpu) = errors.into_iter().next().or(plain)?;
    Some(LastWords { words: words.chars().take(CHARACTERS_MAX).collect(), fault, lacks_gpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fact: &str, log: &str, words: Option<&str>) {
        assert_eq!(of(log).map(|last| last.words).as_deref(), words, "{fact}");
    }

    #[test]
    fn faults() {
        let line = |more: &str| format!(r#"{{"level":"ERROR","message":"401"{more}}}"#);
        let fault = |more: &str| of(&line(more)).map(|last| last.fault);
        let known = r#","weights_fault":"WEIGHTS_FAULT_UNAUTHORIZED""#;
        assert_eq!(fault(known), Some(WeightsFault::Unauthorized));
        assert_eq!(fault(r#","weights_fault":"of tomorrow""#), Some(WeightsFault::Unspecified));
        assert_eq!(fault(""), Some(WeightsFault::Unspecified));
        let lacks_gpu = |more: &str| of(&line(more)).map(|last| last.lacks_gpu);
        assert_eq!(lacks_gpu(r#","fault":"NO_USABLE_GPU""#), Some(true));
        assert_eq!(lacks_gpu(r#","fault":"of tomorrow""#), Some(false));
        assert_eq!(lacks_gpu(""), Some(false));
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
