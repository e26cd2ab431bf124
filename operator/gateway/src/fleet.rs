//! Which endpoints there are, and how many requests this gateway has sent each of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use naru_plan::route::{self, Candidate};
use naru_protocol::{Snapshot, SnapshotVersion};
use tokio::sync::watch;

use crate::demand::{Demand, Wanted};

/// How long an endpoint at which a request failed is not tried again, when nothing is heard
/// about it.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// The fleet as the last snapshot told it, and the gateway's own counts.
#[derive(Clone)]
pub(crate) struct Fleet {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    counts: Arc<Mutex<HashMap<String, usize>>>,
    demand: Demand,
}

/// What routing one request found.
pub(crate) enum Found {
    /// An endpoint; it counts as busy until this is dropped.
    Endpoint(InFlight),
    /// The model exists and nobody can answer now; of this deployment somebody will.
    NobodyReady(String),
    /// The model exists, has no replica, and none will come: it was scaled to zero by hand.
    NoReplica,
    /// No such model.
    NoModel,
}

/// One request's place at one endpoint.
pub(crate) struct InFlight {
    counts: Arc<Mutex<HashMap<String, usize>>>,
    address: String,
    version: SnapshotVersion,
    _wanted: Wanted,
}

/// Where one request has failed, and when.
#[derive(Default)]
pub(crate) struct Failures(Vec<(String, SnapshotVersion, Instant)>);

impl Failures {
    /// Remembers that the request failed at this endpoint.
    pub(crate) fn add(&mut self, at: &InFlight) {
        self.0.push((at.address.clone(), at.version, Instant::now()));
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// An address is avoided while the snapshot is the one in which it failed, for a while.
    fn avoid(&self, address: &str, version: SnapshotVersion) -> bool {
        self.0.iter().any(|(failed, at, when)| {
            failed == address && *at == version && when.elapsed() < FAILED_FOR
        })
    }
}

impl Fleet {
    pub(crate) fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { snapshots, counts: Arc::default(), demand: Demand::default() }
    }

    /// The last snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// What clients want of it.
    pub(crate) fn demand(&self) -> &Demand {
        &self.demand
    }

    /// A receiver of its own for a request that waits.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Picks an endpoint for `model` and counts the request there.
    pub(crate) fn find(&self, model: &str, failures: &Failures) -> Found {
        let snapshot = self.snapshot();
        let Some(entry) = snapshot.models.get(model) else { return Found::NoModel };
        if entry.endpoints.is_empty() && !entry.wakes {
            return Found::NoReplica;
        }
        let mut counts = locked(&self.counts);
        let candidates: Vec<_> = entry
            .endpoints
            .iter()
            .map(|endpoint| Candidate {
                name: &endpoint.replica,
                ready: endpoint.ready,
                draining: endpoint.draining,
                in_flight: counts.get(&endpoint.address).copied().unwrap_or_default(),
                failed_before: failures.avoid(&endpoint.address, snapshot.version),
            })
            .collect();
        let Some(chosen) = route::pick(&candidates).chosen else {
            return Found::NobodyReady(entry.deployment.clone());
        };
        let address = entry.endpoints[chosen].address.clone();
        *counts.entry(address.clone()).or_default() += 1;
        let counts = self.counts.clone();
        let wanted = self.demand.in_flight(&entry.deployment);
        Found::Endpoint(InFlight { counts, address, version: snapshot.version, _wanted: wanted })
    }
}

impl InFlight {
    /// `host:port` of the endpoint.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut counts = locked(&self.counts);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address); // addresses come and go; only busy ones are kept
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held; a count is sound in any case.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use naru_protocol::{Endpoint, ModelEndpoints};

    use super::*;

    fn snapshot(sequence: u64) -> Arc<Snapshot> {
        let endpoint = |replica: &str| Endpoint {
            replica: replica.into(),
            address: format!("{replica}:1"),
            ready: true,
            draining: false,
        };
        let endpoints = vec![endpoint("a"), endpoint("b")];
        let model = ModelEndpoints { endpoints, ..ModelEndpoints::default() };
        let version = SnapshotVersion { epoch: 0, sequence };
        let models = [("m".to_owned(), model)].into();
        Arc::new(Snapshot { version, models, tenants: vec![] })
    }

    #[track_caller]
    fn check(fact: &str, found: Found, address: &str) -> InFlight {
        let Found::Endpoint(in_flight) = found else { panic!("{fact}: nobody was found") };
        assert_eq!(in_flight.address(), address, "{fact}");
        in_flight
    }

    #[test]
    fn requests_are_counted_until_they_end() {
        let (_sender, receiver) = watch::channel(snapshot(1));
        let fleet = Fleet::new(receiver);
        let find = || fleet.find("m", &Failures::default());
        let first = check("the first goes to the first", find(), "a:1");
        let _second = check("the second to the other", find(), "b:1");
        drop(first);
        let _third = check("the third to the one that is free again", find(), "a:1");
        assert!(matches!(fleet.find("x", &Failures::default()), Found::NoModel));
        assert_eq!(locked(&fleet.counts).len(), 2);
    }

    #[test]
    fn a_failed_endpoint_is_avoided_until_something_is_heard() {
        let (sender, receiver) = watch::channel(snapshot(1));
        let fleet = Fleet::new(receiver);
        let mut failures = Failures::default();
        failures.add(&check("a is first", fleet.find("m", &failures), "a:1"));
        failures.add(&check("then b", fleet.find("m", &failures), "b:1"));
        assert!(matches!(fleet.find("m", &failures), Found::NobodyReady(_)));
        sender.send_replace(snapshot(2));
        check("a newer snapshot may know better", fleet.find("m", &failures), "a:1");
    }
}
