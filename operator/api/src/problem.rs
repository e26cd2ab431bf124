//! What is wrong with a document, where, in words a person can act on.

use std::fmt;

/// Why a document was refused; the webhook of a cluster uses the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemReason {
    /// It is not YAML, or larger or deeper than any honest document.
    NotYaml,
    /// Its kind or apiVersion is not one of ours.
    UnknownKind,
    /// A field does not exist.
    UnknownField,
    /// A field is missing or has a value that its schema refuses.
    Invalid,
    /// A rule over several fields does not hold.
    RuleBroken,
    /// Two documents describe the same object.
    AlreadyExists,
    /// Another model deployment serves the name.
    NameTaken,
    /// Another tenant has the key.
    KeyTaken,
    /// A power budget does not exist, or would be a part of itself.
    BudgetInvalid,
}

/// One thing that is wrong with one document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The document within the file, counted from 1.
    pub document: usize,
    /// The field, `spec.model.names[0]`; empty when it is the whole document.
    pub path: String,
    /// Why, for programs.
    pub reason: ProblemReason,
    /// Why, for people.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} document {}: ", self.file, self.document)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} ({:?})", self.message, self.reason)
    }
}

impl std::error::Error for Problem {}

/// A problem that does not know yet which document it is in.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) reason: ProblemReason,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(path: &str, reason: ProblemReason, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason, message: message.into() }
    }

    /// As path and words.
    pub(crate) fn into_pairs(findings: Vec<Self>) -> Vec<(String, String)> {
        findings.into_iter().map(|finding| (finding.path, finding.message)).collect()
    }

    pub(crate) fn at(self, file: &str, document: usize) -> Problem {
        let Self { path, reason, message } = self;
        Problem { file: file.to_owned(), document, path, reason, message }
    }
}

/// What is wrong with one document so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// The value, or a finding at `path`.
    pub(crate) fn keep<T, E: ToString>(&mut self, result: Result<T, E>, path: &str) -> Option<T> {
        let refuse = |error: E| Finding::new(path, ProblemReason::Invalid, error.to_string());
        result.map_err(|error| self.0.push(refuse(error))).ok()
    }

    /// What was parsed, if all of it was, and nothing is wrong.
    pub(crate) fn or<T>(self, parsed: Option<T>) -> Result<T, Vec<Finding>> {
        match parsed {
            Some(parsed) if self.0.is_empty() => Ok(parsed),
            _ => Err(self.0),
        }
    }
}

/// The words of [`ProblemReason::NameTaken`]: `owner` is `namespace/name` of who has it.
pub fn name_taken(served_name: &str, owner: &str) -> String {
    format!("the served name {served_name:?} is taken by {owner}")
}

/// The words of [`ProblemReason::KeyTaken`]: `owner` is the tenant that has it.
pub fn key_taken(owner: &str) -> String {
    format!("the same key belongs to the tenant {owner}")
}
