//! The status streams to members: one per pod that runs, as long as it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use naru_plan::{DeploymentName, Millis};
use naru_protocol::tls::Identity;
use naru_protocol::worker::v1::{State, StatusReport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout_at};
use tonic::transport::Endpoint;

use super::load;
use super::observe::Told;
use crate::member::{self, Heard, Order};

/// What members told and nobody looked at yet; their streams wait beyond it.
const HEARD_MAX: usize = 1024;
/// How often the progress of a fetch is news.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// A member, by the pod that it is: another pod of the same name is another member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId {
    pub(super) deployment: DeploymentName,
    pub(super) pod_uid: String,
}

/// Every member that is being listened to.
pub(super) struct Members {
    members: BTreeMap<MemberId, Member>,
    /// Who asks; members tell nobody who does not prove it.
    identity: Option<Arc<Identity>>,
    heard: mpsc::Receiver<(MemberId, Heard)>,
    sender: mpsc::Sender<(MemberId, Heard)>,
    /// Deployments whose number of replicas follows their load.
    scaled: BTreeSet<DeploymentName>,
    /// Those of which a member told of a request since this was taken last.
    asked: BTreeSet<DeploymentName>,
}

/// What is known of one member, through all the lives of its container.
#[derive(Default)]
struct Member {
    told: Told,
    /// When the progress in `told` was news.
    progressed: Option<Instant>,
    line: Option<Line>,
    is_told_to_drain: bool,
    is_heard: bool,
}

/// The stream to a process that runs.
struct Line {
    address: String,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Members {
    pub(super) fn new(identity: Option<Arc<Identity>>) -> Self {
        let (sender, heard) = mpsc::channel(HEARD_MAX);
        let (scaled, asked) = (BTreeSet::new(), BTreeSet::new());
        Self { members: BTreeMap::new(), identity, heard, sender, scaled, asked }
    }

    /// From now on the load of these deployments matters, and of no others.
    pub(super) fn watch_load(&mut self, scaled: BTreeSet<DeploymentName>) {
        self.scaled = scaled;
    }

    /// The deployments of which a request was heard since this was asked last.
    pub(super) fn take_asked(&mut self) -> BTreeSet<DeploymentName> {
        std::mem::take(&mut self.asked)
    }

    /// Listens to exactly these members of a deployment, each at its address while it has one.
    pub(super) fn listen(
        &mut self,
        name: &DeploymentName,
        members: &BTreeMap<String, Option<String>>,
    ) {
        let gone: Vec<_> = self
            .of(name)
            .filter(|(id, _)| !members.contains_key(&id.pod_uid))
            .map(|(id, _)| id.clone())
            .collect();
        gone.iter().for_each(|id| drop(self.members.remove(id)));
        for (pod_uid, address) in members {
            let id = MemberId { deployment: name.clone(), pod_uid: pod_uid.clone() };
            let (sender, identity) = (self.sender.clone(), self.identity.clone());
            let member = self.members.entry(id.clone()).or_default();
            if member.line.as_ref().map(|line| &line.address) != address.as_ref() {
                member.told.is_live = false;
                member.is_told_to_drain = false;
                let open = |address: &str| Line::open(id, address, sender, identity);
                member.line = address.as_deref().and_then(open);
            }
        }
    }

    fn of<'a>(
        &'a self,
        name: &DeploymentName,
    ) -> impl Iterator<Item = (&'a MemberId, &'a Member)> + use<'a> {
        let from = MemberId { deployment: name.clone(), pod_uid: String::new() };
        let name = name.clone();
        self.members.range(from..).take_while(move |(id, _)| id.deployment == name)
    }

    /// What one member told.
    pub(super) fn told(&self, name: &DeploymentName, pod_uid: &str) -> Option<&Told> {
        let id = MemberId { deployment: name.clone(), pod_uid: pod_uid.to_owned() };
        self.members.get(&id).map(|member| &member.told)
    }

    /// Orders a member to finish what runs and end, once.
    pub(super) fn drain(&mut self, name: &DeploymentName, pod_uid: &str, within: Millis) {
        let id = MemberId { deployment: name.clone(), pod_uid: pod_uid.to_owned() };
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(line) = &member.line else { return };
        if !member.is_told_to_drain && !member.told.has_drained {
            member.is_told_to_drain = line.orders.try_send(Order::Drain(within)).is_ok();
        }
    }

    /// Waits until every member has been heard of once, or could not be, but not for longer than
    /// `within`.
    pub(super) async fn hear_all(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        let mut names = BTreeSet::new();
        while self.members.values().any(|member| member.line.is_some() && !member.is_heard) {
            match timeout_at(deadline, self.heard.recv()).await {
                Ok(Some((id, heard))) => self.take(id, heard, &mut names),
                Ok(None) | Err(_) => return,
            }
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
        let Some(member) = self.members.get_mut(&id) else { return };
        let before = member.told.clone();
        member.is_heard = true;
        match heard {
            Heard::Report(mut report) => {
                let since = member.progressed.map(|at| at.elapsed());
                if takes_progress(&before.report, &mut report, since) {
                    member.progressed = Some(Instant::now());
                }
                let has_served = before.has_served || report.state() == State::Ready;
                member.told = Told { report: *report, is_live: true, has_served, ..member.told };
            }
            Heard::Silent => {
                member.told.is_live = false;
                member.told.has_drained |= before.report.state() == State::Draining;
                // The next process behind this address has not been told anything.
                member.is_told_to_drain = false;
            }
        }
        let now = &member.told;
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

impl Line {
    fn open(
        id: MemberId,
        address: &str,
        sender: mpsc::Sender<(MemberId, Heard)>,
        identity: Option<Arc<Identity>>,
    ) -> Option<Self> {
        let control = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let (orders, receiver) = mpsc::channel(member::ORDERS_MAX);
        let client = member::connection(control, identity);
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
        Some(Self { address: address.to_owned(), orders, task })
    }
}

/// Whether progress in a report is news; of one that comes sooner than people need to know of it,
/// the progress is left as it was. `since` is the time since the last news.
fn takes_progress(
    before: &StatusReport,
    report: &mut StatusReport,
    since: Option<Duration>,
) -> bool {
    if !is_progress(before, report) {
        return false;
    }
    let is_early = since.is_some_and(|since| since < PROGRESS_INTERVAL);
    if is_early {
        report.fetch = before.fetch;
    }
    !is_early
}

/// Whether a fetch goes on, and only that.
fn is_progress(before: &StatusReport, now: &StatusReport) -> bool {
    let fetches = |report: &StatusReport| report.state() == State::Fetching;
    fetches(before) && fetches(now) && before.fetch != now.fetch
}

/// Whether another plan may follow from it: counters alone are no reason to plan again.
fn matters(before: &Told, now: &Told) -> bool {
    let of = |report: &StatusReport| (report.state, report.reason.clone());
    is_progress(&before.report, &now.report)
        || before.is_live != now.is_live
        || before.has_served != now.has_served
        || before.has_drained != now.has_drained
        || of(&before.report) != of(&now.report)
}

#[cfg(test)]
mod tests {
    use naru_protocol::worker::v1::Progress;

    use super::*;

    fn report(state: State, bytes_done: u64) -> StatusReport {
        let fetch = Some(Progress { bytes_done, bytes_total: 100 });
        StatusReport { state: state.into(), fetch, ..StatusReport::default() }
    }

    #[test]
    fn progress_is_news_every_few_seconds() {
        #[track_caller]
        fn check(fact: &str, next: StatusReport, since: Option<u64>, is_news: bool, shown: u64) {
            let (before, mut next) = (report(State::Fetching, 10), next);
            let since = since.map(Duration::from_secs);
            assert_eq!(takes_progress(&before, &mut next, since), is_news, "{fact}");
            assert_eq!(next.fetch.map(|fetch| fetch.bytes_done), Some(shown), "{fact}");
        }
        check("the first", report(State::Fetching, 20), None, true, 20);
        check("too soon", report(State::Fetching, 20), Some(4), false, 10);
        check("late enough", report(State::Fetching, 20), Some(5), true, 20);
        check("nothing new", report(State::Fetching, 10), Some(9), false, 10);
        check("the end is more than progress", report(State::Loading, 100), Some(1), false, 100);
    }
}
