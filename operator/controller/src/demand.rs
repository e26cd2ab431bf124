//! What gateways hold back: requests that no replica takes yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use naru_plan::DeploymentName;
use tokio::sync::watch;

/// By deployment, the requests that wait at all gateways together; none: nobody waits.
pub type Demand = BTreeMap<DeploymentName, u32>;

/// How the loop hears of it.
pub type Demands = watch::Receiver<Arc<Demand>>;
