//! The generated definitions: one YAML file per kind, the same on disk, in the binary and in
//! the checks of `naru up`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Number, Value};

use crate::{ModelDeployment, PowerBudget, Tenant};

/// The name of each kind's file under `crds/`, in the order of [`crds`].
pub const FILES: [&str; 3] =
    ["naru.dev_modeldeployments.yaml", "naru.dev_tenants.yaml", "naru.dev_powerbudgets.yaml"];

/// Every custom resource definition as JSON, ready to apply.
pub fn crds() -> [Value; 3] {
    [ModelDeployment::crd(), Tenant::crd(), PowerBudget::crd()].map(|crd| cleaned(&crd))
}

/// A definition as YAML text.
pub fn to_yaml(crd: &Value) -> String {
    serde_norway::to_string(crd).expect("JSON without odd keys is YAML")
}

/// Without what schemars writes and the API server does not want: integer formats of its own
/// (`uint32`), whole numbers with a fraction, and `nullable` (a null then means "not given").
fn cleaned(crd: &CustomResourceDefinition) -> Value {
    let mut value = serde_json::to_value(crd).expect("a definition is JSON");
    clean(&mut value);
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
