//! The load of a deployment, from what its members told and what gateways hold back. Pure.

use naru_plan::scaling::{Load, ReplicaLoad};
use naru_plan::{Desired, Moment, Phase, TokenCount};
use naru_protocol::worker::v1::StatusReport;

use super::observe::{self, Parts};

/// The load of one deployment. `waiting` requests wait at gateways; a request was last known to
/// be in progress at `last_asked`.
pub(super) fn load<'a>(
    desired: &Desired,
    parts: impl Iterator<Item = Parts<'a>>,
    waiting: u32,
    last_asked: Option<Moment>,
) -> Load {
    let mut load = Load {
        max_sequences: desired.template.engine.max_sequences,
        waiting_at_gateways: waiting,
        last_asked,
        ..Load::default()
    };
    for parts in parts {
        let replica = observe::replica(&parts);
        let is_ready = |phase: &Phase| matches!(phase, Phase::Ready);
        if !replica.is_some_and(|r| r.drain_since.is_none() && is_ready(&r.phase)) {
            continue;
        }
        match parts.first().told.filter(|told| told.is_live) {
            Some(told) => load.replicas.push(of_replica(&told.report)),
            None => load.unheard += 1,
        }
    }
    load
}

fn of_replica(report: &StatusReport) -> ReplicaLoad {
    ReplicaLoad {
        queued_prompt_tokens: TokenCount(report.queued_prompt_tokens),
        running: report.running,
        waiting: report.waiting,
        kv_blocks_used: report.kv_blocks_used,
        kv_blocks_total: report.kv_blocks_total,
    }
}

/// Whether a report says that somebody asked since the one before.
pub(super) fn is_asked(before: &StatusReport, now: &StatusReport) -> bool {
    let requests = |report: &StatusReport| report.totals.map_or(0, |totals| totals.requests);
    now.running > 0 || now.waiting > 0 || requests(now) > requests(before)
}

/// Whether another number of replicas may follow from a report.
pub(super) fn is_other(before: &StatusReport, now: &StatusReport) -> bool {
    of_replica(before) != of_replica(now) || is_asked(before, now)
}
