//! What the API server asks and what it is answered: `AdmissionReview` of `admission.k8s.io/v1`.

use naru_api::{ModelDeployment, PowerBudget, Tenant};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::facts::{Fact, Facts, Stated};
use super::review::review;

const VERSION: &str = "admission.k8s.io/v1";
/// Conflicts of one object that are told.
const CONFLICTS_MAX: usize = 8;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    api_version: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct Kind {
    group: String,
    kind: String,
}

/// An answer, to be sent as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Debug, Serialize)]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Answer {
    /// Whether the object may be stored.
    pub(super) const fn is_allowed(&self) -> bool {
        self.response.allowed
    }

    fn new(uid: String, status: Option<Status>) -> Self {
        let response = Response { uid, allowed: status.is_none(), status };
        Self { api_version: VERSION, kind: "AdmissionReview", response }
    }
}

/// Answers a review. Errors: it is none, and there is nobody to answer; in words.
pub(super) fn answer(body: &[u8], facts: &Facts) -> Result<Answer, String> {
    let asked: Asked = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if asked.api_version != VERSION {
        return Err(format!("{:?} is not {VERSION}", asked.api_version));
    }
    let Request { uid, kind, operation, object, old_object } = asked.request;
    let is_being_written = operation == "CREATE" || operation == "UPDATE";
    // What is on its way out needs only its finalizers changed.
    let is_going = !object["metadata"]["deletionTimestamp"].is_null();
    if kind.group != "naru.dev" || !is_being_written || is_going {
        return Ok(Answer::new(uid, None));
    }
    let read = match kind.kind.as_str() {
        "ModelDeployment" => read::<ModelDeployment>(object, old_object),
        "Tenant" => read::<Tenant>(object, old_object),
        "PowerBudget" => read::<PowerBudget>(object, old_object),
        _ => return Ok(Answer::new(uid, None)),
    };
    let status = match read {
        Err(message) => Some(Status { code: 400, reason: "BadRequest", message }),
        Ok((new, old)) => {
            let conflicts = review(&new, old.as_ref(), facts);
            let told = conflicts.iter().take(CONFLICTS_MAX).map(ToString::to_string);
            let message = told.collect::<Vec<_>>().join("; ");
            (!conflicts.is_empty()).then_some(Status { code: 422, reason: "Invalid", message })
        }
    };
    Ok(Answer::new(uid, status))
}

fn read<K: Stated + DeserializeOwned>(
    object: Value,
    old: Value,
) -> Result<(Fact, Option<Fact>), String> {
    let new: K = serde_json::from_value(object).map_err(|error| error.to_string())?;
    // One that is not understood any more conflicted with nothing.
    let old = serde_json::from_value::<K>(old).ok();
    Ok((new.fact(), old.as_ref().map(Stated::fact)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn asked(operation: &str, object: &Value, old: &Value) -> Value {
        // Of an object that is deleted nothing is sent but its kind.
        let kind = object["kind"].as_str().unwrap_or("ModelDeployment");
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": {"group": "naru.dev", "version": "v1alpha1", "kind": kind},
                "operation": operation,
                "object": object,
                "oldObject": old,
                "dryRun": false,
            },
        })
    }

    fn budget(name: &str, parent: &str) -> Value {
        json!({
            "apiVersion": "naru.dev/v1alpha1",
            "kind": "PowerBudget",
            "metadata": {"name": name},
            "spec": {"watts": 1000, "parent": parent},
        })
    }

    fn deployment(name: &str, served: &str) -> Value {
        json!({
            "apiVersion": "naru.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": "serving"},
            "spec": {"model": {"uri": "file:///m.gguf", "names": [served]}, "backend": "cpu"},
        })
    }

    fn ask(asked: &Value, facts: &Facts) -> Value {
        let answer = answer(asked.to_string().as_bytes(), facts).expect("an answer");
        serde_json::to_value(answer).expect("JSON")
    }

    fn facts() -> Facts {
        let mut facts = Facts::default();
        let known: ModelDeployment = serde_json::from_value(deployment("a", "solar")).unwrap();
        facts.put(known.fact(), None);
        facts
    }

    #[test]
    fn the_api_server_is_answered() {
        let facts = facts();
        let good = ask(&asked("CREATE", &deployment("b", "sun"), &Value::Null), &facts);
        assert_eq!(good["response"]["allowed"], true);
        assert_eq!(good["response"]["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
        assert_eq!(good["kind"], "AdmissionReview");
        assert_eq!(good["response"].get("status"), None);
        let taken = ask(&asked("CREATE", &deployment("b", "solar"), &Value::Null), &facts);
        assert_eq!(taken["response"]["allowed"], false);
        assert_eq!(taken["response"]["status"]["code"], 422);
        assert_eq!(
            taken["response"]["status"]["message"],
            r#"spec.model.names[0]: the served name "solar" is taken by serving/a"#
        );
        let unread = json!({"kind": "PowerBudget", "metadata": {"name": "x"}, "spec": 3});
        let unread = ask(&asked("CREATE", &unread, &Value::Null), &facts);
        assert_eq!(unread["response"]["status"]["code"], 400);
    }

    #[test]
    fn what_is_going_or_not_ours_is_let_through() {
        let facts = facts();
        let mut going = deployment("b", "solar");
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        going["metadata"]["finalizers"] = json!([]);
        for (operation, object) in
            [("UPDATE", &going), ("DELETE", &Value::Null), ("CREATE", &json!({"kind": "Pod"}))]
        {
            let answer = ask(&asked(operation, object, &Value::Null), &facts);
            assert_eq!(answer["response"]["allowed"], true, "{operation} {object}");
        }
        let before = deployment("b", "solar");
        let again = ask(&asked("UPDATE", &before, &before), &facts);
        assert_eq!(again["response"]["allowed"], true, "it was so before");
    }

    #[test]
    fn what_is_no_review_is_refused_in_words() {
        for body in ["", "{", "[]", "{}", r#"{"apiVersion": "v1", "request": {}}"#] {
            assert!(!answer(body.as_bytes(), &Facts::default()).unwrap_err().is_empty(), "{body}");
        }
        let mut other = asked("CREATE", &budget("a", "b"), &Value::Null);
        other["apiVersion"] = "admission.k8s.io/v1beta1".into();
        answer(other.to_string().as_bytes(), &Facts::default()).unwrap_err();
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z/:.]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let key = prop_oneof![
                Just("metadata".to_owned()),
                Just("name".to_owned()),
                Just("namespace".to_owned()),
                Just("spec".to_owned()),
                Just("model".to_owned()),
                Just("names".to_owned()),
                Just("keys".to_owned()),
                Just("parent".to_owned()),
                "[a-z]{1,4}",
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever is asked about whatever object: an answer that is yes, or no with a reason.
        #[test]
        fn every_review_is_answered(
            kind in prop_oneof![Just("ModelDeployment"), Just("Tenant"), Just("PowerBudget")],
            operation in prop_oneof![Just("CREATE"), Just("UPDATE"), Just("DELETE"), Just("X")],
            object in json_value(),
            old in json_value(),
        ) {
            let mut review = asked(operation, &json!({"kind": kind}), &old);
            review["request"]["object"] = object;
            let answer = ask(&review, &facts());
            let response = &answer["response"];
            let said = response["status"]["message"].as_str().unwrap_or_default();
            prop_assert_eq!(response["allowed"] == true, said.is_empty());
        }

        /// Any bytes: an answer or words, never a panic.
        #[test]
        fn any_bytes_are_coped_with(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = answer(&body, &Facts::default());
        }
    }
}
