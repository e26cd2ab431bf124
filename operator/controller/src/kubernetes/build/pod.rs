//! The pod of one member.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction,
    NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Toleration,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use naru_api::PodTemplate;
use naru_plan::{Amounts, Bytes, ClaimedPath, Desired, Millicores, ReplicaId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CACHE_CLAIM, WorkerImage, gpu, group};
use crate::arguments;
use crate::kubernetes::labels::{CONTROL_PORT, DEPLOYMENT, HTTP_PORT, LINKS_PORT, OPS_PORT, ZONE};
use crate::kubernetes::power;

/// The name of the one container.
pub(in crate::kubernetes) const CONTAINER: &str = "worker";
/// The user that images of naru run as.
const USER: i64 = 65532;
/// What a worker gets to end beyond its drain time.
const TERMINATION_MARGIN_SECONDS: u64 = 10;
/// Where weights are kept, and what tells the worker so.
const CACHE_DIR: &str = "/var/cache/naru";
const CACHE_VARIABLE: &str = "NARU_CACHE_DIR";
/// Where a claimed volume of weights is, and what opens weights elsewhere.
const CLAIM_DIR: &str = "/var/lib/naru/weights";
const CREDENTIALS_DIR: &str = "/etc/naru/credentials";
const TLS_DIR: &str = "/etc/naru/tls";
const TLS_SECRET: &str = "naru-worker-tls";
/// How often a worker is asked how it is.
const PROBE_SECONDS: i32 = 2;
/// A start may take a day: large weights come over slow lines, and the worker says how far it is.
const START_PROBES_MAX: i32 = 24 * 3600 / PROBE_SECONDS;
/// A worker that does not answer for this many probes is started again.
const LIVENESS_PROBES_MAX: i32 = 15;

/// The template of a member's pod.
pub(super) fn template(
    desired: &Desired,
    id: ReplicaId,
    mut labels: BTreeMap<String, String>,
    image: &WorkerImage,
) -> PodTemplateSpec {
    let overlay = PodTemplate::of(&desired.template);
    for (key, value) in &overlay.labels {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let mut annotations = overlay.annotations.clone();
    annotations.extend(power::charge(desired));
    let metadata = ObjectMeta {
        labels: Some(labels),
        annotations: some(annotations),
        ..ObjectMeta::default()
    };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec(desired, id, overlay, image)) }
}

fn spec(desired: &Desired, id: ReplicaId, overlay: PodTemplate, image: &WorkerImage) -> PodSpec {
    let mut tolerations = gpu::tolerations(desired);
    tolerations.extend(as_is::<Vec<Toleration>>(&overlay.tolerations));
    let seconds = desired.drain.0.div_ceil(1000) + TERMINATION_MARGIN_SECONDS;
    PodSpec {
        affinity: affinity(desired, id),
        automount_service_account_token: Some(false),
        containers: vec![container(desired, id, &overlay, image)],
        enable_service_links: Some(false),
        image_pull_secrets: list(as_is(&overlay.image_pull_secrets)),
        node_selector: some(gpu::node_selector(desired, overlay.node_selector.clone())),
        priority_class_name: overlay.priority_class_name.clone(),
        runtime_class_name: gpu::runtime_class(desired),
        scheduling_gates: group::gates(desired),
        scheduler_name: overlay.scheduler_name.clone(),
        security_context: Some(PodSecurityContext {
            fs_group: Some(USER),
            run_as_group: Some(USER),
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: i64::try_from(seconds).ok(),
        tolerations: list(tolerations),
        topology_spread_constraints: list(spread(desired)),
        volumes: Some(volumes(desired, &overlay, image)),
        ..PodSpec::default()
    }
}

fn container(
    desired: &Desired,
    id: ReplicaId,
    overlay: &PodTemplate,
    image: &WorkerImage,
) -> Container {
    let port = |name: &str, container_port| ContainerPort {
        name: Some(name.to_owned()),
        container_port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let env = env(desired, overlay, image);
    let mut ports = vec![port("http", HTTP_PORT), port("grpc", CONTROL_PORT)];
    if group::is_group(desired) {
        ports.push(port("links", LINKS_PORT));
    }
    ports.push(port("ops", OPS_PORT));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.image.clone()),
        image_pull_policy: Some(image.pull_policy.clone()),
        args: Some(arguments(desired, id, image)),
        env: Some(env),
        ports: Some(ports),
        resources: Some(resources(desired)),
        startup_probe: Some(probe("/readyz", START_PROBES_MAX)),
        readiness_probe: Some(probe("/readyz", 1)),
        liveness_probe: Some(probe("/healthz", LIVENESS_PROBES_MAX)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        // The last lines of its log say why it ended.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(desired, overlay, image)),
        ..Container::default()
    }
}

/// The operator's own, then what it was told for every worker, then what the wish says.
fn env(desired: &Desired, overlay: &PodTemplate, image: &WorkerImage) -> Vec<EnvVar> {
    let variable = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    };
    let mut env = vec![variable(CACHE_VARIABLE, CACHE_DIR)];
    env.extend(group::env(desired));
    let is_said = |name: &String| overlay.env.iter().any(|own| own.name == *name);
    let is_known = |name: &String| is_said(name) || image.env.contains_key(name);
    env.extend(gpu::env(desired).filter(|variable| !is_known(&variable.name)));
    let shared = image.env.iter().filter(|(name, _)| !is_said(name));
    env.extend(shared.map(|(name, value)| variable(name, value)));
    env.extend(as_is::<Vec<EnvVar>>(&overlay.env));
    env
}

fn arguments(desired: &Desired, id: ReplicaId, image: &WorkerImage) -> Vec<String> {
    let threads = desired.template.resources.threads.map(|threads| threads.0.get());
    let model = match desired.template.model.uri.claimed() {
        Some(ClaimedPath { path, .. }) => format!("{CLAIM_DIR}/{path}"),
        None => desired.template.model.uri.as_str().to_owned(),
    };
    let mut arguments = arguments::of_worker(&desired.template, &model, threads);
    arguments.extend(group::arguments(desired, id));
    let mut give = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    give("--listen", format!("0.0.0.0:{HTTP_PORT}"));
    give("--control-listen", format!("0.0.0.0:{CONTROL_PORT}"));
    give("--ops-listen", format!("0.0.0.0:{OPS_PORT}"));
    give("--drain-seconds", desired.drain.0.div_ceil(1000).to_string());
    if image.has_tls {
        give("--tls-dir", TLS_DIR.to_owned());
    }
    if desired.template.model.secret.is_some() {
        give("--credentials-dir", CREDENTIALS_DIR.to_owned());
    }
    arguments
}

fn probe(path: &str, failures_max: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("ops".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(PROBE_SECONDS),
        failure_threshold: Some(failures_max),
        timeout_seconds: Some(PROBE_SECONDS),
        ..Probe::default()
    }
}

fn resources(desired: &Desired) -> ResourceRequirements {
    let quantities = |amounts: Amounts| {
        let cpu = amounts.cpu.map(|Millicores(cpu)| ("cpu", millicores(cpu)));
        let memory = amounts.memory.map(|Bytes(memory)| ("memory", memory.to_string()));
        let given = cpu.into_iter().chain(memory);
        some(given.map(|(name, amount)| (name.to_owned(), Quantity(amount))).collect())
    };
    let resources = &desired.template.resources;
    let mut limits = quantities(resources.limits).unwrap_or_default();
    limits.extend(gpu::limits(desired));
    ResourceRequirements {
        limits: some(limits),
        requests: quantities(resources.requests),
        ..ResourceRequirements::default()
    }
}

/// As Kubernetes itself would write it.
fn millicores(amount: u64) -> String {
    if amount.is_multiple_of(1000) { (amount / 1000).to_string() } else { format!("{amount}m") }
}

/// Only nodes in the zones of the wish, and members near each other; `None`: anywhere.
fn affinity(desired: &Desired, id: ReplicaId) -> Option<Affinity> {
    let zones: Vec<_> =
        desired.template.zones.iter().map(|zone| zone.as_str().to_owned()).collect();
    let in_zones = NodeSelectorRequirement {
        key: ZONE.to_owned(),
        operator: "In".to_owned(),
        values: Some(zones),
    };
    let term =
        NodeSelectorTerm { match_expressions: Some(vec![in_zones]), ..NodeSelectorTerm::default() };
    let node_affinity = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![term],
        }),
        ..NodeAffinity::default()
    };
    let node_affinity = (!desired.template.zones.is_empty()).then_some(node_affinity);
    let (pod_affinity, pod_anti_affinity) = group::affinity(desired, id).unzip();
    (node_affinity.is_some() || pod_affinity.is_some()).then_some(Affinity {
        node_affinity,
        pod_affinity,
        pod_anti_affinity,
    })
}

/// Replicas of one deployment are on different nodes, and in different zones, where they can be.
/// Members of one are not spread: their affinity keeps replicas apart.
fn spread(desired: &Desired) -> Vec<TopologySpreadConstraint> {
    if group::is_group(desired) {
        return Vec::new();
    }
    let labels = [(DEPLOYMENT.to_owned(), desired.name.name().to_owned())];
    let by = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(labels.clone().into()),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    };
    vec![by("kubernetes.io/hostname"), by(ZONE)]
}

/// naru's own volumes, each with where it is mounted and whether only to be read.
fn own_volumes(desired: &Desired, image: &WorkerImage) -> Vec<(Volume, &'static str, bool)> {
    let named = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
    let claim = |claim: &str, read_only| {
        let claim_name = claim.to_owned();
        Some(PersistentVolumeClaimVolumeSource { claim_name, read_only })
    };
    let secret = |name: &str, optional| {
        let secret_name = Some(name.to_owned());
        Some(SecretVolumeSource { secret_name, optional, ..SecretVolumeSource::default() })
    };
    let cache = match &image.cache {
        Some(_) => {
            Volume { persistent_volume_claim: claim(CACHE_CLAIM, None), ..named("naru-cache") }
        }
        None => Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..named("naru-cache") },
    };
    let mut volumes = vec![(cache, CACHE_DIR, false)];
    if image.has_tls {
        volumes.push((
            Volume { secret: secret(TLS_SECRET, None), ..named("naru-tls") },
            TLS_DIR,
            true,
        ));
    }
    volumes.extend(gpu::shared_memory(desired).map(|(volume, path)| (volume, path, false)));
    let model = &desired.template.model;
    if let Some(name) = &model.secret {
        // Without it the pod starts: whoever has the weights then says what is missing, and a pod
        // that waits for a volume tells nobody why.
        let secret = secret(name.as_str(), Some(true));
        let volume = Volume { secret, ..named("naru-credentials") };
        volumes.push((volume, CREDENTIALS_DIR, true));
    }
    if let Some(ClaimedPath { claim: name, .. }) = model.uri.claimed() {
        let persistent_volume_claim = claim(name, Some(true));
        let volume = Volume { persistent_volume_claim, ..named("naru-weights") };
        volumes.push((volume, CLAIM_DIR, true));
    }
    volumes
}

fn volumes(desired: &Desired, overlay: &PodTemplate, image: &WorkerImage) -> Vec<Volume> {
    let own = own_volumes(desired, image).into_iter().map(|(volume, ..)| volume);
    // The overlay's own words for a volume are a pod's, but for where it is mounted.
    own.chain(overlay.volumes.iter().map(as_is::<Volume>)).collect()
}

fn mounts(desired: &Desired, overlay: &PodTemplate, image: &WorkerImage) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let own = own_volumes(desired, image).into_iter();
    let own = own.map(|(volume, path, read_only)| mount(&volume.name, path, read_only));
    let others = overlay
        .volumes
        .iter()
        .map(|volume| mount(&volume.name, &volume.mount_path, volume.read_only));
    own.chain(others).collect()
}

/// The overlay uses a pod's own field names; unknown ones are left out.
fn as_is<T: DeserializeOwned>(part: &impl Serialize) -> T {
    let value = serde_json::to_value(part).expect("what came from JSON is JSON");
    serde_json::from_value(value).expect("the overlay's fields are those of a pod")
}

fn some<V>(map: BTreeMap<String, V>) -> Option<BTreeMap<String, V>> {
    (!map.is_empty()).then_some(map)
}

fn list<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}
