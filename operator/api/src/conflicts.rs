//! What only several objects together can break; on a cluster the webhook says the same.

use std::collections::BTreeMap;

use naru_plan::power::{self, BudgetFault};
use naru_plan::{BudgetName, DeploymentName, Sha256};

use crate::document::{Parsed, Wish};
use crate::problem::{Finding, Problem, ProblemReason, key_taken, name_taken};

/// Every conflict between these documents, each told of the later one, and every power budget
/// that is named and not there.
pub(crate) fn find(parsed: &[Parsed<'_>]) -> Vec<Problem> {
    let mut problems = taken_twice(parsed);
    let budgets: Vec<_> = parsed.iter().filter_map(|document| document.wish.budget()).collect();
    for document in parsed {
        let (path, fault) = match &document.wish {
            Wish::ModelDeployment(desired, _) => {
                let power = desired.power.as_ref();
                let is_there =
                    |name: &BudgetName| budgets.iter().any(|budget| budget.name == *name);
                let missing = power.map(|power| &power.budget).filter(|name| !is_there(name));
                ("spec.power.budget", missing.map(|name| BudgetFault::Missing(name.clone())))
            }
            Wish::PowerBudget(budget) => ("spec.parent", power::fault(budget, &budgets)),
            Wish::Tenant(_) => continue,
        };
        problems.extend(fault.map(|fault| {
            let finding = Finding::new(path, ProblemReason::BudgetInvalid, fault.to_string());
            finding.at(document.file, document.number)
        }));
    }
    problems
}

fn taken_twice(parsed: &[Parsed<'_>]) -> Vec<Problem> {
    let mut seen = Seen::default();
    let mut problems = Vec::new();
    for document in parsed {
        let place = (document.file, document.number);
        let findings = match &document.wish {
            Wish::ModelDeployment(desired, _) => {
                let object = format!("{}", desired.name);
                seen.object("ModelDeployment", object, place).map_or_else(
                    || seen.names(&desired.name, desired.template.names.iter().map(|n| n.as_str())),
                    |finding| vec![finding],
                )
            }
            Wish::Tenant(tenant) => {
                seen.object("Tenant", tenant.name.to_string(), place).map_or_else(
                    || seen.keys(tenant.name.as_str(), tenant.keys.iter().map(|key| &key.sha256)),
                    |finding| vec![finding],
                )
            }
            Wish::PowerBudget(budget) => {
                let name = budget.name.as_str().to_owned();
                seen.object("PowerBudget", name, place).into_iter().collect()
            }
        };
        problems
            .extend(findings.into_iter().map(|finding| finding.at(document.file, document.number)));
    }
    problems
}

/// What earlier documents have taken.
#[derive(Default)]
struct Seen<'a> {
    objects: BTreeMap<(&'static str, String), (&'a str, usize)>,
    served_names: BTreeMap<String, String>,
    keys: BTreeMap<String, String>,
}

impl<'a> Seen<'a> {
    fn object(
        &mut self,
        kind: &'static str,
        name: String,
        place: (&'a str, usize),
    ) -> Option<Finding> {
        if let Some((file, number)) = self.objects.get(&(kind, name.clone())) {
            let message = format!("{name} is also in {file} document {number}");
            return Some(Finding::new("metadata.name", ProblemReason::AlreadyExists, message));
        }
        self.objects.insert((kind, name), place);
        None
    }

    fn names<'b>(
        &mut self,
        owner: &DeploymentName,
        names: impl Iterator<Item = &'b str>,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (index, name) in names.enumerate() {
            if let Some(other) = self.served_names.get(name) {
                let path = format!("spec.model.names[{index}]");
                let message = name_taken(name, other);
                findings.push(Finding::new(&path, ProblemReason::NameTaken, message));
            } else {
                self.served_names.insert(name.to_owned(), owner.to_string());
            }
        }
        findings
    }

    fn keys<'b>(&mut self, owner: &str, keys: impl Iterator<Item = &'b Sha256>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (index, key) in keys.enumerate() {
            if let Some(other) = self.keys.get(key.as_str()) {
                let path = format!("spec.keys[{index}].sha256");
                findings.push(Finding::new(&path, ProblemReason::KeyTaken, key_taken(other)));
            } else {
                self.keys.insert(key.as_str().to_owned(), owner.to_owned());
            }
        }
        findings
    }
}
