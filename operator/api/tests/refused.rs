//! What an API server refuses is refused on a laptop, with the same words; what it takes is taken.

use std::collections::BTreeSet;

use naru_api::{ProblemReason, Source, check};
use serde::Deserialize;
use serde_json::Value;

const ROWS: &str = include_str!("../../../tests/definitions/refused.yaml");
const ACCEPTED: &str = include_str!("../../../tests/definitions/accepted.yaml");

/// One document and its refusal.
#[derive(Deserialize)]
struct Row {
    fact: String,
    by: Judge,
    path: String,
    message: String,
    object: Value,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Judge {
    Rule,
    Schema,
}

fn rows() -> Vec<Row> {
    serde_norway::from_str(ROWS).expect("a list of rows")
}

#[test]
fn documents_are_refused_in_the_same_words() {
    for Row { fact, by, path, message, object } in rows() {
        let text = object.to_string();
        let problems = check(&[Source { file: "a.yaml", text: &text }]).expect_err(&fact);
        let reason = match by {
            Judge::Rule => ProblemReason::RuleBroken,
            Judge::Schema => ProblemReason::Invalid,
        };
        let is_told = problems.iter().any(|p| p.path == path && p.message.starts_with(&message));
        assert!(is_told, "{fact}: {problems:#?}");
        assert!(problems.iter().all(|problem| problem.reason == reason), "{fact}: {problems:#?}");
    }
}

#[test]
fn documents_with_every_field_are_taken() {
    let wishes = check(&[Source { file: "a.yaml", text: ACCEPTED }]).expect("they are good");
    assert_eq!(wishes.deployments.len(), 2);
    assert_eq!(wishes.tenants[0].keys.len(), 2);
    assert_eq!(wishes.power_budgets.len(), 2);
}

#[test]
fn every_rule_refuses_something() {
    let mut rules = BTreeSet::new();
    naru_api::crds().iter().for_each(|crd| messages(crd, &mut rules));
    assert!(rules.len() > 20, "the rules are found: {rules:#?}");
    let rows = rows();
    let has_row = |rule: &&String| {
        rows.iter().any(|row| row.by == Judge::Rule && rule.starts_with(&row.message))
    };
    let without: Vec<_> = rules.iter().filter(|rule| !has_row(rule)).collect();
    assert!(without.is_empty(), "give each a row in tests/definitions/refused.yaml: {without:#?}");
}

/// The message of every CEL rule in a definition.
fn messages(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "x-kubernetes-validations" {
                    let rules = value.as_array().expect("rules are a list");
                    let message = |rule: &Value| rule["message"].as_str().map(str::to_owned);
                    found.extend(rules.iter().map(|rule| message(rule).expect("a message")));
                }
                messages(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
        _ => {}
    }
}
