//! What is written to the cluster: server-side apply, deletion, status.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Resource, ResourceExt};
use naru_api::{ModelDeployment, ModelDeploymentStatus, PowerBudget, PowerBudgetStatus};
use naru_plan::{DeploymentName, Moment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{labels, observe, settled};

/// How long one call to the API server may take.
const CALL: Duration = Duration::from_secs(5);

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused, or could not be asked.
    #[error("{verb} {kind} {name}")]
    Refused {
        /// What was being done.
        verb: &'static str,
        /// To what kind of object.
        kind: String,
        /// To which one, as `namespace/name`.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("{verb} {kind} {name}: no answer within 5 s")]
    NoAnswer {
        /// What was being done.
        verb: &'static str,
        /// To what kind of object.
        kind: String,
        /// To which one, as `namespace/name`.
        name: String,
    },
}

/// Something that is being done, for its error.
struct Doing<'a> {
    verb: &'static str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Doing<'_> {
    /// Waits for the answer. `None`: the object is not there, or is another one by now.
    async fn ask<T>(
        self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<Option<T>, ApplyError> {
        let (verb, kind) = (self.verb, self.kind.to_owned());
        let name = match self.namespace {
            "" => self.name.to_owned(),
            namespace => format!("{namespace}/{}", self.name),
        };
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && verb != "applying" => {
                Ok(None)
            }
            // Somebody has made it already.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 && verb == "making" => Ok(None),
            // A precondition: the object of this name is not the one that was meant.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 && verb == "deleting" => {
                Ok(None)
            }
            Ok(Err(source)) => {
                Err(ApplyError::Refused { verb, kind, name, source: Box::new(source) })
            }
            Err(_) => Err(ApplyError::NoAnswer { verb, kind, name }),
        }
    }
}

/// Whether all of an object's fields that naru owns are there already.
pub(super) fn is_there<K: Serialize>(live: Option<&K>, wished: &K) -> bool {
    let value = |object: &K| serde_json::to_value(object).unwrap_or(Value::Null);
    live.is_some_and(|live| settled::holds(&value(live), &value(wished)))
}

/// Writes all of an object's fields that naru owns; returns what was written.
pub(super) async fn object<K>(client: &Client, wished: &K) -> Result<Option<K>, ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + Debug,
{
    let namespace = wished.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let (name, kind) = (wished.name_any(), K::kind(&()));
    let doing = Doing { verb: "applying", kind: &kind, namespace: &namespace, name: &name };
    let params = PatchParams::apply(labels::OBJECTS_MANAGER).force();
    doing.ask(api.patch(&name, &params, &Patch::Apply(wished))).await
}

/// Makes the claim of a namespace in which weights are kept, unless there is one.
pub(super) async fn claim(
    client: &Client,
    claim: &PersistentVolumeClaim,
) -> Result<(), ApplyError> {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let kind = "PersistentVolumeClaim";
    let doing = Doing { verb: "making", kind, namespace: &namespace, name: &name };
    let params = PostParams {
        field_manager: Some(labels::OBJECTS_MANAGER.to_owned()),
        ..PostParams::default()
    };
    doing.ask(api.create(&params, claim)).await.map(drop)
}

/// Notes on a replica when something began: [`labels::DRAIN_SINCE`], [`labels::WITHDRAWN`].
pub(super) async fn note(
    client: &Client,
    (namespace, set): (&str, &str),
    what: &str,
    now: Moment,
) -> Result<Option<StatefulSet>, ApplyError> {
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let note = json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": set,
            "annotations": { what: observe::time(now).to_string() },
        },
    });
    let doing = Doing { verb: "annotating", kind: "StatefulSet", namespace, name: set };
    let params = PatchParams {
        field_manager: Some(labels::DRAIN_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    doing.ask(api.patch(set, &params, &Patch::Merge(&note))).await
}

/// Deletes an object, exactly this one, and what it owns before it.
pub(super) async fn delete<K>(client: &Client, object: &K) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..exactly(object.uid())
    };
    delete_with(client, object, params).await
}

/// Lets a member of a group be placed, exactly this one.
pub(super) async fn lift_gate(
    client: &Client,
    pod: &Pod,
    now: Moment,
) -> Result<Option<Pod>, ApplyError> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let lifted = json!({
        "metadata": {
            "uid": pod.uid(),
            "annotations": { labels::PLACING_SINCE: observe::time(now).to_string() },
        },
        "spec": { "schedulingGates": null },
    });
    let doing = Doing { verb: "placing", kind: "Pod", namespace: &namespace, name: &name };
    let params = PatchParams {
        field_manager: Some(labels::OBJECTS_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    doing.ask(api.patch(&name, &params, &Patch::Merge(&lifted))).await
}

/// Deletes a member of a group, exactly this one: its StatefulSet makes another.
pub(super) async fn withdraw(client: &Client, pod: &Pod) -> Result<(), ApplyError> {
    delete_with(client, pod, exactly(pod.uid())).await
}

/// Deletes a pod whose node cannot say any more that it ended.
pub(super) async fn forget(client: &Client, pod: &Pod) -> Result<(), ApplyError> {
    let params = DeleteParams { grace_period_seconds: Some(0), ..exactly(pod.uid()) };
    delete_with(client, pod, params).await
}

fn exactly(uid: Option<String>) -> DeleteParams {
    let preconditions = Some(Preconditions { uid, ..Preconditions::default() });
    DeleteParams { preconditions, ..DeleteParams::default() }
}

async fn delete_with<K>(client: &Client, object: &K, params: DeleteParams) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let (name, kind) = (object.name_any(), K::kind(&()));
    let doing = Doing { verb: "deleting", kind: &kind, namespace: &namespace, name: &name };
    doing.ask(api.delete(&name, &params)).await.map(|_| ())
}

/// Writes the status of a model deployment.
pub(super) async fn status(
    client: &Client,
    name: &DeploymentName,
    status: &ModelDeploymentStatus,
) -> Result<Option<DynamicObject>, ApplyError> {
    let resource = ApiResource::erase::<ModelDeployment>(&());
    let api = Api::namespaced_with(client.clone(), name.namespace(), &resource);
    report(&api, &resource, name.namespace(), name.name(), status).await
}

/// Writes the status of a power budget.
pub(super) async fn budget_status(
    client: &Client,
    name: &str,
    status: &PowerBudgetStatus,
) -> Result<Option<DynamicObject>, ApplyError> {
    let resource = ApiResource::erase::<PowerBudget>(&());
    let api = Api::all_with(client.clone(), &resource);
    report(&api, &resource, "", name, status).await
}

/// Writes a whole status; `namespace` is empty where objects are in none.
async fn report(
    api: &Api<DynamicObject>,
    resource: &ApiResource,
    namespace: &str,
    name: &str,
    status: &impl Serialize,
) -> Result<Option<DynamicObject>, ApplyError> {
    let whole = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": name },
        "status": status,
    });
    let doing = Doing { verb: "reporting on", kind: &resource.kind, namespace, name };
    let params = PatchParams::apply(labels::STATUS_MANAGER).force();
    doing.ask(api.patch_status(name, &params, &Patch::Apply(&whole))).await
}
