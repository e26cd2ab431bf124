//! The status streams to members: one per pod that runs, as long as it does.

use std::collections::{BTreeMap, BTreeSet};

use naru_plan::{DeploymentName, Millis};
use naru_protocol::worker::v1::{State, StatusReport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use super::load;
use super::observe::Told;
use crate::member::{self, Heard, Order};

/// What members told and nobody looked at yet; their streams wait beyond it.
const HEARD_MAX: usize = 1024;

/// A member, by the pod that it is: another pod of the same name is another member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId {
    pub(super) deployment: DeploymentName,
    pub(super) pod_uid: String,
}

/// Every member that is being listened to.
pub(super) struct Members {
    streams: BTreeMap<MemberId, Stream>,
    heard: mpsc::Receiver<(MemberId, Heard)>,
    sender: mpsc::Sender<(MemberId, Heard)>,
    /// Deployments whose number of replicas follows their load.
    scaled: BTreeSet<DeploymentName>,
    /// Those of which a member told of a request since this was taken last.
    asked: BTreeSet<DeploymentName>,
}

struct Stream {
    address: String,
    told: Told,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
    is_told_to_drain: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Members {
    pub(super) fn new() -> Self {
        let (sender, heard) = mpsc::channel(HEARD_MAX);
        let (scaled, asked) = (BTreeSet::new(), BTreeSet::new());
        Self { streams: BTreeMap::new(), heard, sender, scaled, asked }
    }

    /// From now on the load of these deployments matters, and of no others.
    pub(super) fn watch_load(&mut self, scaled: BTreeSet<DeploymentName>) {
        self.scaled = scaled;
    }

    /// The deployments of which a request was heard since this was asked last.
    pub(super) fn take_asked(&mut self) -> BTreeSet<DeploymentName> {
        std::mem::take(&mut self.asked)
    }

    /// Listens to exactly these members of a deployment, each at its address.
    pub(super) fn listen(&mut self, name: &DeploymentName, members: &BTreeMap<String, String>) {
        let gone: Vec<_> = self
            .of(name)
            .filter(|(id, stream)| members.get(&id.pod_uid) != Some(&stream.address))
            .map(|(id, _)| id.clone())
            .collect();
        gone.iter().for_each(|id| drop(self.streams.remove(id)));
        for (pod_uid, address) in members {
            let id = MemberId { deployment: name.clone(), pod_uid: pod_uid.clone() };
            if !self.streams.contains_key(&id) {
                let stream = self.open(&id, address);
                self.streams.extend(stream.map(|stream| (id, stream)));
            }
        }
    }

    fn open(&self, id: &MemberId, address: &str) -> Option<Stream> {
        let control = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let (orders, receiver) = mpsc::channel(member::ORDERS_MAX);
        let (sender, id) = (self.sender.clone(), id.clone());
        let client = member::connection(control);
        let task = tokio::spawn(async move {
            let tell = |heard| {
                let (sender, id) = (sender.clone(), id.clone());
                async move {
                    // Without a receiver nobody leads any more.
                    let _ = sender.send((id, heard)).await;
                }
            };
            member::follow(client, receiver, tell).await;
        });
        let (address, told) = (address.to_owned(), Told::default());
        Some(Stream { address, told, orders, task, is_told_to_drain: false })
    }

    fn of<'a>(
        &'a self,
        name: &DeploymentName,
    ) -> impl Iterator<Item = (&'a MemberId, &'a Stream)> + use<'a> {
        let from = MemberId { deployment: name.clone(), pod_uid: String::new() };
        let name = name.clone();
        self.streams.range(from..).take_while(move |(id, _)| id.deployment == name)
    }

    /// What one member told.
    pub(super) fn told(&self, name: &DeploymentName, pod_uid: &str) -> Option<&Told> {
        let id = MemberId { deployment: name.clone(), pod_uid: pod_uid.to_owned() };
        self.streams.get(&id).map(|stream| &stream.told)
    }

    /// Orders a member to finish what runs and end, once.
    pub(super) fn drain(&mut self, name: &DeploymentName, pod_uid: &str, within: Millis) {
        let id = MemberId { deployment: name.clone(), pod_uid: pod_uid.to_owned() };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_told_to_drain {
            stream.is_told_to_drain = stream.orders.try_send(Order::Drain(within)).is_ok();
        }
    }

    /// Waits until a member tells something that matters; returns whose it is.
    pub(super) async fn changed(&mut self) -> BTreeSet<DeploymentName> {
        loop {
            // A sender is held here, so the channel never closes.
            let Some((id, heard)) = self.heard.recv().await else { return BTreeSet::new() };
            let mut names = BTreeSet::new();
            self.take(id, heard, &mut names);
            while let Ok((id, heard)) = self.heard.try_recv() {
                self.take(id, heard, &mut names);
            }
            if !names.is_empty() {
                return names;
            }
        }
    }

    fn take(&mut self, id: MemberId, heard: Heard, names: &mut BTreeSet<DeploymentName>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = stream.told.clone();
        match heard {
            Heard::Report(report) => {
                let has_served = before.has_served || report.state() == State::Ready;
                stream.told = Told { report, is_live: true, has_served };
            }
            Heard::Silent => {
                stream.told.is_live = false;
                // The next process behind this address has not been told anything.
                stream.is_told_to_drain = false;
            }
        }
        let now = &stream.told;
        if self.scaled.contains(&id.deployment) && load::is_other(&before.report, &now.report) {
            if load::is_asked(&before.report, &now.report) {
                self.asked.insert(id.deployment.clone());
            }
            names.insert(id.deployment);
        } else if matters(&before, now) {
            names.insert(id.deployment);
        }
    }
}

/// Whether another plan may follow from it: counters alone are no reason to plan again.
fn matters(before: &Told, now: &Told) -> bool {
    let of = |report: &StatusReport| (report.state, report.reason.clone());
    before.is_live != now.is_live
        || before.has_served != now.has_served
        || of(&before.report) != of(&now.report)
}
