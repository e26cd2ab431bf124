//! The one look at a cluster: five lists, beside each other.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::{ObjectList, Status};
use kube::{Client, Resource};
use naru_api::{ModelDeployment, PowerBudget};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::super::labels::{DEPLOYMENT, MANAGED};
use super::facts::{Objects, overview};
use super::{Overview, queues};
use crate::clock::wall_clock;
use crate::reconcile::one_line;

/// An API server that has not answered by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every namespace.
    Everywhere,
    /// One.
    Namespace(String),
    /// One model deployment.
    One {
        /// Where it is.
        namespace: String,
        /// What it is called.
        name: String,
    },
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The kinds are not there.
    #[error("the cluster does not know model deployments: naru is not installed")]
    NotInstalled,
    /// Whoever asks may not.
    #[error("reading model deployments: {0}")]
    Forbidden(String),
    /// Whoever asks is nobody.
    #[error("reading model deployments: the API server does not accept these credentials")]
    Unauthorized,
    /// There is none of that name.
    #[error("there is no model deployment {name} in namespace {namespace}")]
    NotFound {
        /// Where it was looked for.
        namespace: String,
        /// What was looked for.
        name: String,
    },
    /// Nobody answers.
    #[error("the API server has not answered within {} seconds", PATIENCE.as_secs())]
    Silent,
    /// Anything else.
    #[error("reading model deployments: {0}")]
    Failed(String),
}

impl LookError {
    /// The command to try next.
    pub fn next(&self, scope: &Scope) -> String {
        match self {
            Self::NotInstalled => "helm install naru-crds charts/naru-crds".to_owned(),
            Self::Forbidden(_) => {
                let verb = if matches!(scope, Scope::One { .. }) { "get" } else { "list" };
                let place = scope.place();
                format!("kubectl auth can-i {verb} modeldeployments.naru.dev{place}")
            }
            Self::Unauthorized => "kubectl auth whoami".to_owned(),
            Self::NotFound { namespace, .. } => format!("naru status -n {namespace}"),
            Self::Silent | Self::Failed(_) => "kubectl cluster-info".to_owned(),
        }
    }
}

impl Scope {
    fn place(&self) -> String {
        match self {
            Self::Everywhere => " -A".to_owned(),
            Self::Namespace(namespace) | Self::One { namespace, .. } => format!(" -n {namespace}"),
        }
    }

    /// The API of a kind that has namespaces.
    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Everywhere => Api::all(client.clone()),
            Self::Namespace(namespace) | Self::One { namespace, .. } => {
                Api::namespaced(client.clone(), namespace)
            }
        }
    }

    /// What selects the objects that naru made.
    fn made(&self) -> ListParams {
        let params = ListParams::default();
        match self {
            Self::One { name, .. } => params.labels(&format!("{MANAGED},{DEPLOYMENT}={name}")),
            _ => params.labels(MANAGED),
        }
    }
}

/// Looks once. What may not be looked at is left out, with a note; without model deployments
/// there is nothing to show.
pub async fn look(client: &Client, scope: &Scope) -> Result<Overview, LookError> {
    let lists = async {
        let made = scope.made();
        let everything = ListParams::default();
        let budgets = dynamic::<PowerBudget>(client, &Scope::Everywhere);
        let (sets, pods) = (scope.api(client), scope.api(client));
        let nodes = Api::all(client.clone());
        tokio::join!(
            deployments(client, scope),
            budgets.list(&everything),
            sets.list(&made),
            pods.list(&made),
            nodes.list(&everything),
        )
    };
    let lists = timeout(PATIENCE, lists).await.map_err(|_| LookError::Silent)?;
    let (deployments, budgets, sets, pods, nodes) = lists;
    let mut objects = Objects { deployments: deployments?, ..Objects::default() };
    let notes = &mut objects.notes;
    objects.budgets = listed(budgets, "power budgets", notes).unwrap_or_default();
    objects.sets = listed(sets, "replicas", notes).unwrap_or_default();
    objects.pods = listed(pods, "pods of replicas", notes).unwrap_or_default();
    objects.nodes = listed(nodes, "zones of nodes", notes);
    let mut overview = overview(&objects, wall_clock());
    queues::fill(client, &mut overview).await;
    Ok(overview)
}

/// Objects are read one by one: one of another version must not hide the others.
fn dynamic<K: Resource<DynamicType = ()>>(client: &Client, scope: &Scope) -> Api<DynamicObject> {
    let kind = ApiResource::erase::<K>(&());
    match scope {
        Scope::Everywhere => Api::all_with(client.clone(), &kind),
        Scope::Namespace(namespace) | Scope::One { namespace, .. } => {
            Api::namespaced_with(client.clone(), namespace, &kind)
        }
    }
}

async fn deployments(client: &Client, scope: &Scope) -> Result<Vec<DynamicObject>, LookError> {
    let api = dynamic::<ModelDeployment>(client, scope);
    let found = match scope {
        Scope::One { name, .. } => api.get(name).await.map(|object| vec![object]),
        _ => api.list(&ListParams::default()).await.map(|list| list.items),
    };
    found.map_err(|error| refused(error, scope))
}

fn refused(error: kube::Error, scope: &Scope) -> LookError {
    let status = match error {
        kube::Error::Api(status) => status,
        other => return LookError::Failed(one_line(&other)),
    };
    match (status.code, scope) {
        (401, _) => LookError::Unauthorized,
        (403, _) => LookError::Forbidden(status.message.clone()),
        // A kind that is not there has no name in what is said of it.
        (404, Scope::One { namespace, name }) if is_about(&status, name) => {
            LookError::NotFound { namespace: namespace.clone(), name: name.clone() }
        }
        (404, _) => LookError::NotInstalled,
        _ => LookError::Failed(status.message.clone()),
    }
}

fn is_about(status: &Status, name: &str) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == name)
}

/// The items of a list; where there are none to be had, a note says why.
fn listed<K: Clone + Debug + DeserializeOwned>(
    list: kube::Result<ObjectList<K>>,
    what: &str,
    notes: &mut Vec<String>,
) -> Option<Vec<K>> {
    match list {
        Ok(list) => Some(list.items),
        Err(error) => {
            notes.push(format!("{what} are not shown: {}", reason(&error)));
            None
        }
    }
}

fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; an administrator can bind the ClusterRole naru-viewer", status.message)
        }
        kube::Error::Api(status) => status.message.clone(),
        other => one_line(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Scope {
        Scope::One { namespace: "serving".into(), name: "solar".into() }
    }

    fn answer(code: u16, name: Option<&str>) -> kube::Error {
        let details = name.map(|name| serde_json::json!({"name": name}));
        let status =
            serde_json::json!({"code": code, "message": "m", "reason": "r", "details": details});
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    #[track_caller]
    fn check(fact: &str, error: kube::Error, scope: &Scope, words: &str, next: &str) {
        let error = refused(error, scope);
        assert_eq!((error.to_string(), error.next(scope)), (words.into(), next.into()), "{fact}");
    }

    #[test]
    fn errors_end_with_what_to_try() {
        let all = &Scope::Everywhere;
        check(
            "no such kind",
            answer(404, None),
            all,
            "the cluster does not know model deployments: naru is not installed",
            "helm install naru-crds charts/naru-crds",
        );
        let not_found = "there is no model deployment solar in namespace serving";
        check(
            "no such name",
            answer(404, Some("solar")),
            &one(),
            not_found,
            "naru status -n serving",
        );
        check(
            "no right",
            answer(403, None),
            all,
            "reading model deployments: m",
            "kubectl auth can-i list modeldeployments.naru.dev -A",
        );
        check(
            "no right to the one",
            answer(403, Some("solar")),
            &one(),
            "reading model deployments: m",
            "kubectl auth can-i get modeldeployments.naru.dev -n serving",
        );
        let words = "reading model deployments: the API server does not accept these credentials";
        check("no credentials", answer(401, None), all, words, "kubectl auth whoami");
        check(
            "else",
            answer(500, None),
            all,
            "reading model deployments: m",
            "kubectl cluster-info",
        );
    }
}
