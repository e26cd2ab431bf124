//! The part of a document that every API server checks by itself and no definition describes.

use naru_plan::DeploymentName;
use serde_json::Value;

use crate::kind::Kind;
use crate::problem::{Finding, ProblemReason};
use crate::schema;

/// What Kubernetes keeps in `metadata`; anything else is a mistake.
const FIELDS: [&str; 13] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "managedFields",
    "ownerReferences",
];

/// Everything that is wrong with the `metadata` of an object of this kind.
pub(crate) fn check(kind: Kind, metadata: Option<&Value>) -> Vec<Finding> {
    let invalid = |path: &str, words: &str| Finding::new(path, ProblemReason::Invalid, words);
    let Some(Value::Object(map)) = metadata else {
        return vec![invalid("metadata", "is required and must be a map")];
    };
    let mut findings = Vec::new();
    for key in map.keys().filter(|key| !FIELDS.contains(&key.as_str())) {
        let path = schema::join("metadata", key);
        findings.push(Finding::new(&path, ProblemReason::UnknownField, "unknown field"));
    }
    match map.get("name") {
        Some(Value::String(name)) if !name.is_empty() => {}
        Some(_) => findings.push(invalid("metadata.name", "must be text and not empty")),
        None => findings.push(invalid("metadata.name", "is required")),
    }
    if let Some(namespace) = map.get("namespace") {
        let label = namespace.as_str().map(|label| DeploymentName::parse(label, "x"));
        let words = if !kind.is_namespaced() {
            "must not be given: there is one such object for the whole cluster"
        } else if !matches!(label, Some(Ok(_))) {
            "must be a DNS label: 1 to 63 of a-z 0-9 - that begin and end with a letter or digit"
        } else {
            ""
        };
        if !words.is_empty() {
            findings.push(invalid("metadata.namespace", words));
        }
    }
    for field in ["labels", "annotations"] {
        let is_text =
            |value: &Value| value.as_object().is_some_and(|map| map.values().all(Value::is_string));
        if map.get(field).is_some_and(|value| !is_text(value)) {
            let path = schema::join("metadata", field);
            findings.push(invalid(&path, "must be a map from text to text"));
        }
    }
    findings
}
