//! The watches: everything naru looks at in the cluster, told as it changes.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Client, Resource};
use naru_api::{ModelDeployment, PowerBudget, Tenant};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::cluster::Seen;
use super::labels::MANAGED;
use super::troubles::{CREATES, MOUNTS, SANDBOXES};

/// What watches told and nobody looked at yet; they wait beyond it.
const SEEN_MAX: usize = 1024;
/// Objects of a list that are asked for at once: a page is in memory as text and as values
/// together.
const PAGE_OBJECTS: u32 = 100;
/// The wait after a watch failed, doubling from the first to the last: a key that is revoked once
/// the API server is back must not live on for long.
const RETRY_FIRST: Duration = Duration::from_millis(125);
const RETRY_LAST: Duration = Duration::from_secs(1);

/// Begins to watch; everything ends when the set is dropped.
pub(super) fn all(client: &Client) -> (JoinSet<()>, mpsc::Receiver<Seen>) {
    let (sender, seen) = mpsc::channel(SEEN_MAX);
    let mut tasks = JoinSet::new();
    let everything = Config::default().page_size(PAGE_OBJECTS);
    let managed = everything.clone().labels(MANAGED);
    // Objects are read one by one: one that this version cannot read must not hide the others.
    let kind = ApiResource::erase::<ModelDeployment>(&());
    let deployments = Api::<DynamicObject>::all_with(client.clone(), &kind);
    tasks.spawn(follow(deployments, everything.clone(), Seen::Deployment, sender.clone()));
    let kind = ApiResource::erase::<Tenant>(&());
    let tenants = Api::<DynamicObject>::all_with(client.clone(), &kind);
    tasks.spawn(follow(tenants, everything.clone(), Seen::Tenant, sender.clone()));
    let kind = ApiResource::erase::<PowerBudget>(&());
    let budgets = Api::<DynamicObject>::all_with(client.clone(), &kind);
    tasks.spawn(follow(budgets, everything.clone(), Seen::PowerBudget, sender.clone()));
    tasks.spawn(follow(Api::all(client.clone()), managed.clone(), Seen::Set, sender.clone()));
    tasks.spawn(follow(Api::all(client.clone()), managed.clone(), Seen::Pod, sender.clone()));
    tasks.spawn(follow(Api::all(client.clone()), managed.clone(), Seen::Service, sender.clone()));
    tasks.spawn(follow(Api::all(client.clone()), managed, Seen::Budget, sender.clone()));
    let troubles: [(_, fn(_) -> Seen); 3] = [
        (CREATES, Seen::FailedCreate),
        (MOUNTS, Seen::FailedMount),
        (SANDBOXES, Seen::FailedSandbox),
    ];
    for (selector, seen) in troubles {
        let chosen = everything.clone().fields(selector);
        tasks.spawn(follow(Api::all(client.clone()), chosen, seen, sender.clone()));
    }
    tasks.spawn(follow(Api::<Node>::all(client.clone()), everything, Seen::Node, sender));
    (tasks, seen)
}

async fn follow<K>(
    api: Api<K>,
    config: Config,
    wrap: fn(Event<K>) -> Seen,
    sender: mpsc::Sender<Seen>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = std::pin::pin!(watcher(api, config));
    let mut wait = RETRY_FIRST;
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                wait = RETRY_FIRST;
                if sender.send(wrap(event)).await.is_err() {
                    return; // nobody leads any more
                }
            }
            Err(error) => {
                tell(&error);
                sleep(wait).await;
                wait = (wait * 2).min(RETRY_LAST);
            }
        }
    }
}

fn tell(error: &watcher::Error) {
    let error = crate::reconcile::one_line(error);
    tracing::warn!(error, "a watch broke and is made again");
}
