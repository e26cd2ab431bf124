//! What clients want of each model deployment, over all gateways that are heard of.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use naru_plan::DeploymentName;
use naru_protocol::control::v1::GatewayReport;
use tokio::sync::watch;
use tokio::time::Instant;

/// A gateway that was not heard of for this long counts no more: three reports are missing.
pub(crate) const GATEWAY_EXPIRES: Duration = Duration::from_secs(15);
/// More gateways than this are not counted.
const GATEWAYS_MAX: usize = 4096;

/// By deployment, what clients want of it; deployments that nobody wants are absent.
pub type Demand = BTreeMap<DeploymentName, Wanted>;

/// What clients want of one deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Requests that wait for an endpoint.
    pub waiting: u64,
    /// Requests that are being answered, or were since their gateway's last report.
    pub in_flight: u64,
}

/// How the loop hears of it.
pub type Demands = watch::Receiver<Arc<Demand>>;

/// Adds the reports of all gateways up.
#[derive(Debug)]
pub(crate) struct Reports {
    gateways: HashMap<String, (Instant, Demand)>,
    sum: watch::Sender<Arc<Demand>>,
}

impl Reports {
    pub(crate) fn new() -> Self {
        Self { gateways: HashMap::new(), sum: watch::Sender::new(Arc::default()) }
    }

    pub(crate) fn subscribe(&self) -> Demands {
        self.sum.subscribe()
    }

    /// Takes what one gateway says; it replaces what that gateway said before.
    pub(crate) fn take(&mut self, report: GatewayReport, now: Instant) {
        if !self.gateways.contains_key(&report.gateway) && self.gateways.len() >= GATEWAYS_MAX {
            self.expire(now);
            if self.gateways.len() >= GATEWAYS_MAX {
                tracing::error!(max = GATEWAYS_MAX, "more gateways report than are counted");
                return;
            }
        }
        let wanted = report.demand.into_iter().filter_map(|demand| {
            let (namespace, name) = demand.deployment.split_once('/')?;
            let name = DeploymentName::parse(namespace, name).ok()?;
            let (waiting, in_flight) = (demand.waiting.into(), demand.in_flight.into());
            Some((name, Wanted { waiting, in_flight }))
        });
        self.gateways.insert(report.gateway, (now, wanted.collect()));
        self.publish();
    }

    /// Forgets gateways that are not heard of any more.
    pub(crate) fn expire(&mut self, now: Instant) {
        let count = self.gateways.len();
        self.gateways.retain(|_, (heard, _)| now.duration_since(*heard) < GATEWAY_EXPIRES);
        if self.gateways.len() < count {
            self.publish();
        }
    }

    fn publish(&self) {
        let mut sum = Demand::new();
        for (name, wanted) in self.gateways.values().flat_map(|(_, demand)| demand) {
            let all = sum.entry(name.clone()).or_default();
            all.waiting += wanted.waiting;
            all.in_flight += wanted.in_flight;
        }
        self.sum.send_if_modified(|told| {
            let is_news = **told != sum;
            if is_news {
                *told = Arc::new(sum);
            }
            is_news
        });
    }
}

#[cfg(test)]
mod tests {
    use naru_protocol::control::v1::DeploymentDemand;

    use super::*;

    fn report(gateway: &str, demand: &[(&str, u32, u32)]) -> GatewayReport {
        let one = |&(deployment, waiting, in_flight): &(&str, u32, u32)| DeploymentDemand {
            deployment: deployment.into(),
            waiting,
            in_flight,
        };
        let demand = demand.iter().map(one).collect();
        GatewayReport { gateway: gateway.into(), held: None, demand }
    }

    #[track_caller]
    fn check(fact: &str, reports: &Reports, expected: &str) {
        let sum = reports.subscribe().borrow().clone();
        let words: Vec<_> =
            sum.iter().map(|(name, w)| format!("{name} {}+{}", w.waiting, w.in_flight)).collect();
        assert_eq!(words.join(", "), expected, "{fact}");
    }

    #[test]
    fn gateways_are_added_up() {
        let mut reports = Reports::new();
        let now = Instant::now();
        check("nobody reports", &reports, "");
        reports.take(report("a", &[("x/m", 1, 2)]), now);
        reports.take(report("b", &[("x/m", 3, 0), ("x/n", 0, 1)]), now + Duration::from_secs(10));
        check("two gateways", &reports, "x/m 4+2, x/n 0+1");
        reports.take(report("b", &[("x/n", 0, 1)]), now + Duration::from_secs(11));
        check("a later report replaces the earlier", &reports, "x/m 1+2, x/n 0+1");
        reports.expire(now + Duration::from_secs(15));
        check("a gateway that is gone counts no more", &reports, "x/n 0+1");
        reports.take(report("b", &[("nonsense", 9, 9), ("x/UPPER", 9, 9)]), now);
        check("what names no deployment is left out", &reports, "");
    }
}
