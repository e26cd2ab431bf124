//! What gateways hold back: requests that no replica takes yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use naru_plan::DeploymentName;
use tokio::sync::watch;

/// By deployment, what clients want of it; deployments that nobody wants are absent.
pub type Demand = BTreeMap<DeploymentName, Wanted>;

/// What clients want of one deployment, over all gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Requests that wait for an endpoint.
    pub waiting: u64,
    /// Requests that are being answered.
    pub in_flight: u64,
}

/// How the loop hears of it.
pub type Demands = watch::Receiver<Arc<Demand>>;
