//! The generated definitions: one YAML file per kind, the same on disk, in the binary and in
//! the checks of `naru up`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Number, Value};

use crate::{ModelDeployment, PowerBudget, Tenant};

/// The name of each kind's file under `crds/`, in the order of [`crds`].
pub const FILES: [&str; 3] =
    ["naru.dev_modeldeployments.yaml", "naru.dev_tenants.yaml", "naru.dev_powerbudgets.yaml"];

/// Where a definition describes the fields of a condition.
const CONDITION_FIELDS: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/status\
                                /properties/conditions/items/properties";

/// Every custom resource definition as JSON, ready to apply.
pub fn crds() -> [Value; 3] {
    [ModelDeployment::crd(), Tenant::crd(), PowerBudget::crd()].map(|crd| cleaned(&crd))
}

/// A definition as YAML text.
pub fn to_yaml(crd: &Value) -> String {
    serde_norway::to_string(crd).expect("JSON without odd keys is YAML")
}

/// Without what schemars writes and the API server does not want: integer formats of its own
/// (`uint32`), whole numbers with a fraction, and `nullable` (a null then means "not given"). And
/// without what Kubernetes says of every kind's conditions: it is a kilobyte of each definition.
fn cleaned(crd: &CustomResourceDefinition) -> Value {
    let mut value = serde_json::to_value(crd).expect("a definition is JSON");
    clean(&mut value);
    let fields = value.pointer_mut(CONDITION_FIELDS).and_then(Value::as_object_mut);
    for field in fields.into_iter().flat_map(|fields| fields.values_mut()) {
        field.as_object_mut().and_then(|field| field.remove("description"));
    }
    value
}

fn clean(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str).is_some_and(|f| f.starts_with("uint")) {
                map.remove("format");
            }
            if map.get("nullable").is_some_and(Value::is_boolean) {
                map.remove("nullable");
            }
            map.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Number(number) => {
            let whole = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15);
            if let Some(whole) = whole {
                *number = Number::from(whole as i64);
            }
        }
        _ => {}
    }
}
