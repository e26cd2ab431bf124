//! The loop of a cluster, for as long as this operator leads.

use std::sync::Arc;

use naru_api::Wishes;
use naru_protocol::{Snapshot, SnapshotVersion};
use tokio::sync::watch;

use super::{Kubernetes, KubernetesConfig};
use crate::election::Leadership;
use crate::reconcile::{Controls, Outputs, run};

/// Runs the loop whenever this operator leads, and stops it the moment it does not: what is under
/// way is dropped, and nothing is published any more. Ends when `leadership` does.
pub async fn lead(
    config: KubernetesConfig,
    mut leadership: watch::Receiver<Leadership>,
    outputs: Outputs,
) {
    loop {
        let leads = *leadership.borrow_and_update();
        config.metrics.leads(leads.is_some());
        // Sequence 0: nothing is published yet, or by this operator any more.
        let version = SnapshotVersion { epoch: leads.unwrap_or(0), sequence: 0 };
        outputs.snapshots.send_replace(Arc::new(Snapshot { version, ..Snapshot::default() }));
        let changed = match leads {
            None => leadership.changed().await,
            Some(_) => tokio::select! {
                () = act(config.clone(), outputs.clone()) => return,
                changed = leadership.changed() => changed,
            },
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn act(config: KubernetesConfig, outputs: Outputs) {
    let (wishes, wished) = watch::channel(Arc::new(Wishes::default()));
    // What runs in a cluster goes on when an operator stops.
    let (_never, stop) = watch::channel(None);
    let world = Kubernetes::start(config, wishes).await;
    run(world, Controls { wishes: wished, stop }, outputs).await;
}
