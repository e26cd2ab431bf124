//! YAML documents, checked as an API server would check them, every problem told at once.

use std::collections::BTreeMap;

use kube_core::cel::Validator;
use naru_plan::power::PowerBudget;
use naru_plan::{DeploymentName, Desired, Tenant};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kind::{Kind, Schemas};
use crate::model_deployment::ModelDeployment;
use crate::parse::parse_fields;
use crate::power_budget::parse_power_budget_fields;
use crate::problem::{Finding, Problem, ProblemReason};
use crate::tenant::parse_tenant_fields;
use crate::{conflicts, metadata, schema, yaml};

/// One file: its name, for messages, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// How the user named the file.
    pub file: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// What the documents wish, each kind in the order in which it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// The model deployments.
    pub deployments: Vec<Desired>,
    /// The tenants.
    pub tenants: Vec<Tenant>,
    /// The power budgets.
    pub power_budgets: Vec<PowerBudget>,
    /// By model deployment, the fields it gives that only a cluster obeys.
    pub cluster_fields: BTreeMap<DeploymentName, Vec<&'static str>>,
}

/// One document that passed.
pub(crate) struct Parsed<'a> {
    pub(crate) file: &'a str,
    pub(crate) number: usize,
    pub(crate) wish: Wish,
}

/// What one document wishes.
pub(crate) enum Wish {
    ModelDeployment(Box<Desired>, Vec<&'static str>),
    Tenant(Tenant),
    PowerBudget(PowerBudget),
}

impl Wish {
    pub(crate) fn budget(&self) -> Option<&PowerBudget> {
        match self {
            Self::PowerBudget(budget) => Some(budget),
            Self::ModelDeployment(..) | Self::Tenant(_) => None,
        }
    }
}

/// Checks every document of every file: schema, defaults, CEL rules, then what only several
/// documents together can break.
///
/// Errors: every problem of every document. A file without any document is one: it is more
/// likely half written than meant.
pub fn check(sources: &[Source<'_>]) -> Result<Wishes, Vec<Problem>> {
    let schemas = Schemas::new();
    let mut problems = Vec::new();
    let mut parsed = Vec::new();
    for Source { file, text } in sources {
        let documents = yaml::documents(text);
        if documents.is_empty() {
            let finding = Finding::new("", ProblemReason::NotYaml, "the file holds no document");
            problems.push(finding.at(file, 1));
        }
        for (number, document) in documents {
            let checked = document.map_err(|finding| vec![finding]);
            match checked.and_then(|document| check_object(&schemas, document)) {
                Ok(wish) => parsed.push(Parsed { file, number, wish }),
                Err(findings) => {
                    problems.extend(findings.into_iter().map(|finding| finding.at(file, number)));
                }
            }
        }
    }
    problems.extend(conflicts::find(&parsed));
    if problems.is_empty() { Ok(collect(parsed)) } else { Err(problems) }
}

fn collect(parsed: Vec<Parsed<'_>>) -> Wishes {
    let mut wishes = Wishes::default();
    for document in parsed {
        match document.wish {
            Wish::ModelDeployment(desired, cluster_fields) => {
                if !cluster_fields.is_empty() {
                    wishes.cluster_fields.insert(desired.name.clone(), cluster_fields);
                }
                wishes.deployments.push(*desired);
            }
            Wish::Tenant(tenant) => wishes.tenants.push(tenant),
            Wish::PowerBudget(budget) => wishes.power_budgets.push(budget),
        }
    }
    wishes
}

fn check_object(schemas: &Schemas, mut object: Value) -> Result<Wish, Vec<Finding>> {
    schema::without_nulls(&mut object);
    let Value::Object(map) = &object else {
        return Err(vec![Finding::new("", ProblemReason::NotYaml, "a document must be a map")]);
    };
    let kind = Kind::of(map).map_err(|finding| vec![finding])?;
    let schema = schemas.of(kind);
    let mut findings = metadata::check(kind, map.get("metadata"));
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
    parse(kind, object)
}

/// A document that passed schema and rules, as the noun that it wishes.
fn parse(kind: Kind, object: Value) -> Result<Wish, Vec<Finding>> {
    Ok(match kind {
        Kind::ModelDeployment => {
            let deployment: ModelDeployment = typed(object)?;
            let fields = deployment.spec.cluster_fields();
            Wish::ModelDeployment(Box::new(parse_fields(&deployment)?), fields)
        }
        Kind::Tenant => Wish::Tenant(parse_tenant_fields(&typed(object)?)?),
        Kind::PowerBudget => Wish::PowerBudget(parse_power_budget_fields(&typed(object)?)?),
    })
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<T, Vec<Finding>> {
    let invalid = |error: serde_json::Error| {
        vec![Finding::new("", ProblemReason::Invalid, error.to_string())]
    };
    serde_json::from_value(object).map_err(invalid)
}

fn remove(value: &mut Value, field: &str) {
    if let Value::Object(map) = value {
        map.remove(field);
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
