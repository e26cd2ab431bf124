//! YAML documents, checked as an API server would check them, every problem told at once.

use std::collections::BTreeMap;

use kube_core::cel::Validator;
use naru_plan::{DeploymentName, Desired, ServedName};
use serde_json::{Map, Value};

use crate::model_deployment::ModelDeployment;
use crate::parse::parse_fields;
use crate::problem::{Finding, Problem, ProblemReason, name_taken};
use crate::{crd, schema, yaml};

/// The kinds that are known, as `apiVersion` and `kind`.
pub const KINDS: [(&str, &str); 1] = [("naru.dev/v1alpha1", "ModelDeployment")];

/// What Kubernetes keeps in `metadata`; anything else is a mistake.
const METADATA_FIELDS: [&str; 13] = [
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

/// One file: its name, for messages, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// How the user named the file.
    pub file: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// Checks every document of every file: schema, defaults, CEL rules, then what only several
/// documents together can break. Returns the model deployments in the order they were written.
///
/// Errors: every problem of every document. A file without any document is one: it is more
/// likely half written than meant.
pub fn check(sources: &[Source<'_>]) -> Result<Vec<Desired>, Vec<Problem>> {
    let schema = served_schema();
    let mut problems = Vec::new();
    let mut parsed = Vec::new();
    for source in sources {
        let documents = yaml::documents(source.text);
        if documents.is_empty() {
            let finding = Finding::new("", ProblemReason::NotYaml, "the file holds no document");
            problems.push(finding.at(source.file, 1));
        }
        for (number, document) in documents {
            let checked = document.map_err(|finding| vec![finding]);
            match checked.and_then(|document| check_object(&schema, document)) {
                Ok(desired) => parsed.push((source.file, number, desired)),
                Err(findings) => problems
                    .extend(findings.into_iter().map(|finding| finding.at(source.file, number))),
            }
        }
    }
    problems.extend(conflicts(&parsed));
    if problems.is_empty() {
        Ok(parsed.into_iter().map(|(_, _, desired)| desired).collect())
    } else {
        Err(problems)
    }
}

/// The openAPIV3Schema of `ModelDeployment`.
fn served_schema() -> Value {
    let crd = crd::crds().swap_remove(0);
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema")
        .cloned()
        .expect("a generated definition has a schema")
}

fn check_object(schema: &Value, mut object: Value) -> Result<Desired, Vec<Finding>> {
    schema::without_nulls(&mut object);
    let Value::Object(map) = &object else {
        return Err(vec![Finding::new("", ProblemReason::NotYaml, "a document must be a map")]);
    };
    check_kind(map)?;
    let mut findings = check_metadata(map.get("metadata"));
    let (mut body, mut body_schema) = (object.clone(), schema.clone());
    for field in ["apiVersion", "kind", "metadata"] {
        remove(&mut body, field);
        remove(&mut body_schema["properties"], field);
    }
    findings.extend(schema::check(&body_schema, &body));
    if !findings.is_empty() {
        return Err(findings);
    }
    // Rules see what the API server would see: the object with its defaults.
    let object = kube_core::cel::apply_defaults(schema, &object);
    if let Err(errors) = Validator::new().validate(schema, &object, None) {
        let broken = |error: kube_core::cel::ValidationError| {
            Finding::new(&error.field_path, ProblemReason::RuleBroken, error.message)
        };
        return Err(errors.into_iter().map(broken).collect());
    }
    let typed: ModelDeployment = serde_json::from_value(object)
        .map_err(|error| vec![Finding::new("", ProblemReason::Invalid, error.to_string())])?;
    parse_fields(&typed)
}

fn remove(value: &mut Value, field: &str) {
    if let Value::Object(map) = value {
        map.remove(field);
    }
}

fn check_kind(map: &Map<String, Value>) -> Result<(), Vec<Finding>> {
    let field = |name| map.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (field("apiVersion"), field("kind"));
    if KINDS.contains(&(version, kind)) {
        return Ok(());
    }
    let known: Vec<_> = KINDS.iter().map(|(version, kind)| format!("{version} {kind}")).collect();
    let (path, what) = if KINDS.iter().any(|known| known.1 == kind) {
        ("apiVersion", format!("{kind} has no version {version:?}"))
    } else {
        ("kind", format!("{kind:?} is not known to this version"))
    };
    let message = format!("{what}; known: {}", known.join(", "));
    Err(vec![Finding::new(path, ProblemReason::UnknownKind, message)])
}

/// The part that every API server checks by itself and no definition describes.
fn check_metadata(metadata: Option<&Value>) -> Vec<Finding> {
    let invalid = |path: &str, words: &str| Finding::new(path, ProblemReason::Invalid, words);
    let Some(Value::Object(map)) = metadata else {
        return vec![invalid("metadata", "is required and must be a map")];
    };
    let mut findings = Vec::new();
    for key in map.keys().filter(|key| !METADATA_FIELDS.contains(&key.as_str())) {
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
        if !matches!(label, Some(Ok(_))) {
            let words = "must be a DNS label: 1 to 63 of a-z 0-9 - that begin and end with a \
                         letter or digit";
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

/// What only several documents together can break.
fn conflicts(parsed: &[(&str, usize, Desired)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut objects: BTreeMap<&DeploymentName, (&str, usize)> = BTreeMap::new();
    let mut served: BTreeMap<&ServedName, &DeploymentName> = BTreeMap::new();
    for (file, number, desired) in parsed {
        if let Some((other, place)) = objects.get(&desired.name) {
            let message = format!("{} is also in {other} document {place}", desired.name);
            let finding = Finding::new("metadata.name", ProblemReason::AlreadyExists, message);
            problems.push(finding.at(file, *number));
            continue;
        }
        objects.insert(&desired.name, (file, *number));
        for (index, name) in desired.template.names.iter().enumerate() {
            if let Some(owner) = served.get(name) {
                let message = name_taken(name.as_str(), &owner.to_string());
                let path = format!("spec.model.names[{index}]");
                let finding = Finding::new(&path, ProblemReason::NameTaken, message);
                problems.push(finding.at(file, *number));
            } else {
                served.insert(name, &desired.name);
            }
        }
    }
    problems
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
