//! One member of a replica: its pod, the node of that, and what it told itself. Pure.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition,
};
use naru_plan::{Bytes, Failures, Moment, PendingReason, Phase, WorkerFailure, group};
use naru_protocol::worker::v1::{State, StatusReport};

use super::super::build::CONTAINER;
use super::super::cluster::node_name;
use super::{NodeState, Told, moment};
use crate::last_words::{self, LastWords};
use crate::member::weights_fault;

/// A node that has not been Ready for this long beyond the cluster's own patience is lost.
const LOST_AFTER_MS: u64 = 20_000;
/// A pod on a node that nobody knows is not believed to be new any more after this.
const UNKNOWN_NODE_AFTER_MS: u64 = 60_000;
/// A node that has had a pod for this long is asked why its containers are not there.
const STUCK_AFTER_MS: u64 = 3_000;
/// The exit code of a worker that cannot even begin.
const CANNOT_BEGIN: i32 = 2;
/// What lets a worker have a GPU, where it finds none.
const GPU_NEEDS: &str = "its node needs NVIDIA's driver and device plugin, and its pod a runtime \
                         class that gives it the driver (accelerator.runtimeClassName)";

/// The objects of one member, and what it told.
#[derive(Clone)]
pub(in crate::kubernetes) struct Member<'a> {
    /// The name of its pod.
    pub(in crate::kubernetes) name: String,
    pub(in crate::kubernetes) pod: Option<&'a Pod>,
    pub(super) node: Option<NodeState>,
    pub(in crate::kubernetes) told: Option<&'a Told>,
    pub(super) trouble: Option<&'a PendingReason>,
    /// When its replica was told to drain.
    pub(super) drain_since: Option<Moment>,
    pub(super) now: Moment,
}

impl Member<'_> {
    /// Since when the kubelet finds the pod ready; the member itself may say so a little earlier.
    pub(super) fn ready_since(&self) -> Option<Moment> {
        let ready = condition(self.pod?, "Ready").filter(|ready| ready.status == "True")?;
        ready.last_transition_time.as_ref().map(moment)
    }

    pub(super) fn is_terminating(&self) -> bool {
        self.pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    fn is_live(&self) -> bool {
        self.told.is_some_and(|told| told.is_live)
    }

    /// From when on the pod's node counts as gone for good; `None` while it is there.
    fn lost_at(&self) -> Option<Moment> {
        let name = self.pod?.spec.as_ref()?.node_name.as_ref()?;
        if name.is_empty() || self.is_live() {
            return None;
        }
        let (since, patience) = match self.node {
            Some(node) if node.is_ready => return None,
            Some(node) => (node.since, LOST_AFTER_MS),
            None => {
                (moment(self.pod?.metadata.creation_timestamp.as_ref()?), UNKNOWN_NODE_AFTER_MS)
            }
        };
        Some(Moment(since.0 + patience))
    }

    /// Whether the node does not answer, for good or not.
    pub(in crate::kubernetes) fn is_unreachable(&self) -> bool {
        self.lost_at().is_some()
    }

    /// Whether the node is lost for good, so that its pod will never be seen to end.
    pub(in crate::kubernetes) fn is_lost(&self) -> bool {
        self.lost_at().is_some_and(|lost| lost <= self.now)
    }

    pub(super) fn is_placed(&self) -> bool {
        self.pod.and_then(node_name).is_some()
    }

    /// The node is being cleared, or its kubelet is gone while the worker still answers.
    pub(super) fn loses_its_node(&self) -> bool {
        self.node.is_some_and(|node| node.is_cordoned || (!node.is_ready && self.is_live()))
    }

    /// As the planner takes it together with the others of its replica.
    pub(super) fn seen(&self) -> group::Member {
        let node = self.pod.and_then(node_name);
        let on = node.map(|node| format!(" on node {node}")).unwrap_or_default();
        let phase = self.phase();
        let is_counted = self.container().is_some_and(|it| self.cannot_begin(it).is_some());
        let is_down = matches!(phase, Phase::Stopped { .. }) && !is_counted;
        group::Member {
            place: format!("pod {}{on}", self.name),
            phase,
            blames: self.told.and_then(|told| told.report.lost_rank),
            ended: self.ended(),
            failures: Failures(self.restarts() + u32::from(is_down)),
        }
    }

    fn container(&self) -> Option<&ContainerStatus> {
        container(self.pod?)
    }

    fn restarts(&self) -> u32 {
        let restarts = self.container().map(|container| u32::try_from(container.restart_count));
        restarts.and_then(Result::ok).unwrap_or(0)
    }

    /// Whether the kubelet or the member itself has ever found it ready.
    pub(super) fn has_served(&self) -> bool {
        self.container().is_some_and(|container| container.started == Some(true))
            || self.told.is_some_and(|told| told.has_served)
    }

    /// How its last run ended, while another one runs.
    fn ended(&self) -> Option<(Moment, WorkerFailure)> {
        let ended = self.container()?.last_state.as_ref()?.terminated.as_ref()?;
        Some((finished(ended), failure(ended, None)))
    }

    pub(super) fn phase(&self) -> Phase {
        let Some(pod) = self.pod else { return self.without_pod() };
        if let Some(at) = self.lost_at() {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let words = format!("node {} does not answer", node.unwrap_or_default());
            return Phase::Stopped { at, failure: WorkerFailure::NodeLost(words) };
        }
        let container = container(pod);
        if let (Some(at), true) = (self.drain_since, self.told.is_some_and(|t| t.has_drained)) {
            let failure = WorkerFailure::Ended("it has drained".to_owned());
            return Phase::Stopped { at, failure };
        }
        if let (Some(since), Some(container)) = (self.drain_since, container) {
            let ended = [&container.state, &container.last_state].into_iter().flatten();
            let ended = ended.filter_map(|state| state.terminated.as_ref());
            let mut after = ended.filter(|ended| finished(ended).0 + 999 >= since.0);
            if let Some(ended) = after.next() {
                return Phase::Stopped { at: finished(ended), failure: failure(ended, None) };
            }
        }
        if let Some(deleted) = &pod.metadata.deletion_timestamp {
            return Phase::Silent { since: moment(deleted) };
        }
        match container {
            Some(container) => self.of_container(pod, container),
            None => Phase::Pending { why: unscheduled(pod) },
        }
    }

    /// No pod: the StatefulSet is about to make it, or has none left.
    fn without_pod(&self) -> Phase {
        match self.drain_since {
            Some(at) => {
                let failure = WorkerFailure::Ended("its pod is gone".to_owned());
                Phase::Stopped { at, failure }
            }
            None => {
                let why = self.trouble.cloned().unwrap_or(PendingReason::Placing);
                Phase::Pending { why }
            }
        }
    }

    fn of_container(&self, pod: &Pod, container: &ContainerStatus) -> Phase {
        let state = container.state.as_ref();
        let last = container.last_state.as_ref();
        if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
            return Phase::Stopped { at: finished(ended), failure: failure(ended, self.told) };
        }
        if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
            let words = waiting.message.clone().unwrap_or_default();
            let reason = waiting.reason.as_deref().unwrap_or_default();
            let ended = last.and_then(|last| last.terminated.as_ref());
            return match (reason, ended) {
                ("CrashLoopBackOff", Some(ended)) => {
                    Phase::Stopped { at: finished(ended), failure: failure(ended, self.told) }
                }
                ("ContainerCreating", _) => Phase::Pending { why: self.held_up(pod) },
                _ => Phase::Pending { why: waiting_for(reason, words, &container.image) },
            };
        }
        if let Some(ended) = self.cannot_begin(container) {
            return Phase::Stopped { at: finished(ended), failure: failure(ended, None) };
        }
        let is_ready = is_true(pod, "Ready");
        match self.told.filter(|told| told.is_live) {
            Some(told) => self.reported(&told.report, is_ready, last),
            // Without its own word the kubelet's is taken.
            None if is_ready => Phase::Ready,
            None => Phase::Pending { why: PendingReason::Placing },
        }
    }

    /// What keeps the node from making the containers; a pod's status does not tell. What fails at
    /// first may just not be there yet.
    fn held_up(&self, pod: &Pod) -> PendingReason {
        let placed = condition(pod, "PodScheduled").and_then(|c| c.last_transition_time.as_ref());
        let is_stuck = placed.is_some_and(|at| moment(at).0 + STUCK_AFTER_MS <= self.now.0);
        // With volumes and sandbox in place there is only the image to wait for.
        let has_both = is_true(pod, "PodReadyToStartContainers");
        let why = self.trouble.filter(|_| is_stuck && !has_both);
        why.cloned().unwrap_or(PendingReason::Placing)
    }

    /// How the run before this one ended, if it could not even begin: that stands until this one
    /// says anything, or the reason would come and go with each start.
    fn cannot_begin<'s>(
        &self,
        container: &'s ContainerStatus,
    ) -> Option<&'s ContainerStateTerminated> {
        container.state.as_ref()?.running.as_ref()?;
        let ended = container.last_state.as_ref()?.terminated.as_ref()?;
        let has_begun = self.is_live() || container.started == Some(true);
        (ended.exit_code == CANNOT_BEGIN && !has_begun).then_some(ended)
    }

    fn reported(
        &self,
        report: &StatusReport,
        is_ready: bool,
        last: Option<&ContainerState>,
    ) -> Phase {
        match report.state() {
            State::Fetching => {
                let fetch = report.fetch.unwrap_or_default();
                let total = (fetch.bytes_total > 0).then_some(Bytes(fetch.bytes_total));
                Phase::Fetching { done: Bytes(fetch.bytes_done), total }
            }
            State::Loading => Phase::Loading,
            State::Apart => Phase::Apart { lost: Some(report.reason.clone()) },
            State::Ready => Phase::Ready,
            State::Failed => {
                let fault = weights_fault(report.weights_fault());
                let failure = WorkerFailure::Weights(fault, report.reason.clone());
                let before = last.and_then(|last| last.terminated.as_ref()).map(finished);
                Phase::Stopped { at: before.unwrap_or(self.now), failure }
            }
            // Somebody else told it to drain: it goes, and is started again.
            State::Draining => Phase::Pending { why: PendingReason::Placing },
            State::Unspecified if is_ready => Phase::Ready,
            State::Unspecified => Phase::Pending { why: PendingReason::Placing },
        }
    }
}

/// The status of the worker's container, once there is one.
pub(in crate::kubernetes) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn is_true(pod: &Pod, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| condition.status == "True")
}

/// Why a pod without containers has none.
fn unscheduled(pod: &Pod) -> PendingReason {
    match condition(pod, "PodScheduled") {
        // It waits for the others of its group: why these do is known elsewhere.
        Some(scheduled) if scheduled.reason.as_deref() == Some("SchedulingGated") => {
            PendingReason::Placing
        }
        Some(scheduled) if scheduled.status == "False" => {
            PendingReason::Unschedulable(scheduled.message.clone().unwrap_or_default())
        }
        _ => PendingReason::Placing,
    }
}

/// What a container waits for, in the kubelet's words.
fn waiting_for(reason: &str, message: String, image: &str) -> PendingReason {
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "RegistryUnavailable"
        | "ImageInspectError"
        | "SignatureValidationFailed" => {
            let words = if message.is_empty() { reason.to_owned() } else { message };
            PendingReason::ImageMissing(format!("image {image}: {words}"))
        }
        "CreateContainerConfigError" => PendingReason::MountMissing(message),
        "CreateContainerError" | "RunContainerError" => PendingReason::Refused(message),
        _ => PendingReason::Placing,
    }
}

/// Why a container ended: its own last words, when it had any.
fn failure(ended: &ContainerStateTerminated, told: Option<&Told>) -> WorkerFailure {
    let code = ended.exit_code;
    if ended.reason.as_deref() == Some("OOMKilled") {
        let words = "the worker used more memory than resources.limits.memory allows";
        return WorkerFailure::OutOfMemory(words.to_owned());
    }
    let logged = ended.message.as_deref().and_then(last_words::of);
    let has_served = told.is_some_and(|told| told.has_served);
    match (code, logged) {
        (CANNOT_BEGIN, Some(LastWords { words, lacks_gpu: true, .. })) => {
            WorkerFailure::NoUsableGpu(format!("{words}; {GPU_NEEDS}"))
        }
        (CANNOT_BEGIN, Some(LastWords { words, .. })) => WorkerFailure::Config(words),
        (CANNOT_BEGIN, None) => {
            WorkerFailure::Config("the worker refused its arguments".to_owned())
        }
        (1, Some(LastWords { words, fault, .. })) if !has_served => {
            WorkerFailure::Weights(weights_fault(fault), words)
        }
        (code, Some(LastWords { words, .. })) => {
            WorkerFailure::Ended(format!("{words} (exit code {code})"))
        }
        (code, None) => WorkerFailure::Ended(format!("the worker ended with exit code {code}")),
    }
}

fn finished(ended: &ContainerStateTerminated) -> Moment {
    ended.finished_at.as_ref().map_or(Moment(0), moment)
}
