//! What clients want of each model deployment: how many requests wait, how many are answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use naru_protocol::control::v1::DeploymentDemand;
use tokio::sync::Notify;

/// The counts of one gateway. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Demand(Arc<Inner>);

#[derive(Default)]
struct Inner {
    counts: Mutex<HashMap<String, Counts>>,
    urgent: Notify,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    waiting: u32,
    in_flight: u32,
    /// Most in flight at one time since the last report.
    in_flight_peak: u32,
}

/// One request that is counted until this is dropped.
pub(crate) struct Wanted {
    demand: Demand,
    deployment: String,
    what: What,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Waiting,
    InFlight,
}

impl Demand {
    /// Counts a request that waits for an endpoint. The first one of a deployment is urgent.
    pub(crate) fn waiting(&self, deployment: &str) -> Wanted {
        self.count(deployment, What::Waiting)
    }

    /// Counts a request that an endpoint has.
    pub(crate) fn in_flight(&self, deployment: &str) -> Wanted {
        self.count(deployment, What::InFlight)
    }

    fn count(&self, deployment: &str, what: What) -> Wanted {
        let mut all = self.locked();
        let counts = all.entry(deployment.to_owned()).or_default();
        match what {
            What::Waiting => counts.waiting += 1,
            What::InFlight => {
                counts.in_flight += 1;
                counts.in_flight_peak = counts.in_flight_peak.max(counts.in_flight);
            }
        }
        if what == What::Waiting && counts.waiting == 1 {
            self.0.urgent.notify_one();
        }
        Wanted { demand: self.clone(), deployment: deployment.to_owned(), what }
    }

    /// Returns when a request waits for a deployment for which none waited before. One that
    /// began to wait meanwhile is not missed.
    pub(crate) async fn urgent(&self) {
        self.0.urgent.notified().await;
    }

    /// What is wanted now, for the operator; peaks begin anew.
    pub(crate) fn report(&self) -> Vec<DeploymentDemand> {
        let mut all = self.locked();
        let wanted = all
            .iter()
            .filter(|(_, counts)| counts.waiting + counts.in_flight_peak > 0)
            .map(|(deployment, counts)| DeploymentDemand {
                deployment: deployment.clone(),
                waiting: counts.waiting,
                in_flight: counts.in_flight_peak,
            })
            .collect();
        all.retain(|_, counts| {
            counts.in_flight_peak = counts.in_flight;
            counts.waiting + counts.in_flight > 0
        });
        wanted
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Counts>> {
        // Nothing panics while it is held; a count is sound in any case.
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut all = self.demand.locked();
        if let Some(counts) = all.get_mut(&self.deployment) {
            match self.what {
                What::Waiting => counts.waiting -= 1,
                What::InFlight => counts.in_flight -= 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[track_caller]
    fn check(fact: &str, demand: &Demand, waiting: u32, in_flight: u32) {
        let report = demand.report();
        let found = report.first().map_or((0, 0), |found| (found.waiting, found.in_flight));
        assert_eq!(found, (waiting, in_flight), "{fact}");
    }

    #[test]
    fn reports() {
        let demand = Demand::default();
        check("nothing", &demand, 0, 0);
        let waiting = [demand.waiting("a/b"), demand.waiting("a/b")];
        check("two wait", &demand, 2, 0);
        drop(waiting);
        check("they left", &demand, 0, 0);
        let answered = demand.in_flight("a/b");
        drop(demand.in_flight("a/b"));
        check("two at one time, though one is over", &demand, 0, 2);
        check("one since then", &demand, 0, 1);
        drop(answered);
        check("it was there in this time too", &demand, 0, 1);
        check("nothing any more", &demand, 0, 0);
        assert!(demand.locked().is_empty(), "what nobody wants is forgotten");
    }

    #[tokio::test]
    async fn the_first_to_wait_is_urgent() {
        let demand = Demand::default();
        let is_urgent = async || timeout(Duration::from_millis(20), demand.urgent()).await.is_ok();
        let first = demand.waiting("a/b");
        assert!(is_urgent().await, "the first");
        let second = demand.waiting("a/b");
        assert!(!is_urgent().await, "not the second");
        let _other = demand.waiting("a/c");
        assert!(is_urgent().await, "the first of another deployment");
        drop((first, second));
        let _again = demand.waiting("a/b");
        assert!(is_urgent().await, "the first after all had left");
    }
}
