//! `ModelDeployment`: the wish that a model be served, with these limits.
//!
//! A field is here only once it acts. Field docs are what `kubectl explain` prints.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::accelerator::Accelerator;
use crate::access::{Access, Placement, Power};
use crate::parallelism::Parallelism;
use crate::pod_template::PodTemplate;
use crate::quantity::{CpuQuantity, MemoryQuantity};
use crate::rollout::Rollout;
use crate::scaling::Scaling;
use crate::status::ModelDeploymentStatus;

/// Serves one model under one or more names.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "naru.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    doc = "The wish that a model be served, with these limits.",
    shortname = "md",
    category = "naru",
    namespaced,
    status = "ModelDeploymentStatus",
    derive = "PartialEq",
    validation = (
        "self.metadata.name.size() <= 48 && \
         self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS label of at most 48 characters: replicas and members add \
         their numbers to it"
    ),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        description = "Replicas that answer requests",
        json_path = ".status.readyReplicas"
    ),
    printcolumn(
        name = "Watts",
        type_ = "integer",
        description = "Watts that its replicas may draw together",
        json_path = ".status.power.chargedWatts"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = (
        "self.backend == 'cuda' || !has(self.resources.limits) || \
         !has(self.resources.limits.memory) || \
         quantity(string(self.engine.kvCacheMemory)).isLessThan(\
         quantity(string(self.resources.limits.memory)))",
        "engine.kvCacheMemory must be less than resources.limits.memory"
    ),
    validation = (
        "self.backend == 'sim' || !self.model.uri.startsWith('sim://')",
        "a model.uri that starts with sim:// needs backend sim"
    ),
    validation = (
        "!has(self.parallelism) || self.backend != 'sim' || \
         self.parallelism.tensor * self.parallelism.pipeline == 1",
        "backend sim has one rank: parallelism.tensor and parallelism.pipeline must be 1"
    ),
    validation = (
        "self.backend == 'cuda' || !has(self.accelerator)",
        "accelerator needs backend cuda"
    ),
    validation = (
        "!has(self.accelerator) || !has(self.accelerator.product) || !has(self.podTemplate) || \
         !has(self.podTemplate.nodeSelector) || \
         !('nvidia.com/gpu.product' in self.podTemplate.nodeSelector)",
        "accelerator.product and podTemplate.nodeSelector both say nvidia.com/gpu.product"
    ),
    validation = (
        "self.backend != 'cuda' || !has(self.podTemplate) || !has(self.podTemplate.volumes) || \
         self.podTemplate.volumes.all(volume, volume.mountPath != '/dev/shm')",
        "with backend cuda /dev/shm is naru's own"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentSpec {
    /// Which model, and what clients call it.
    pub model: Model,
    /// What computes. `cpu`: the processor's cores; `cuda`: one GPU of NVIDIA for each rank;
    /// `sim`: nothing, answers take the time that an engine would and say that they are simulated.
    /// Default: cpu.
    #[serde(default)]
    pub backend: BackendName,
    /// Which GPU, with backend cuda. Default: any that nodes count as nvidia.com/gpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Limits of the engine in each replica.
    #[serde(default)]
    pub engine: Engine,
    /// How each replica is cut into ranks. Default: one rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<Parallelism>,
    /// What each member may use of the machine it runs on.
    #[serde(default)]
    pub resources: Resources,
    /// How many complete copies of the model answer requests; `kubectl scale`, an HPA or KEDA may
    /// write it. Ignored while `scaling` is given. Default: 1.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: u32,
    /// naru chooses the number of replicas by load: more at once, one less after each minute in
    /// which fewer would have been enough. Default: it does not, `replicas` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Whose requests are answered. Default: every tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Where members may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Which power budget the members draw from, and how much. Default: none, nothing is charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Power>,
    /// Laid over the pod of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// How replicas give way: to a new template, and when fewer are wished.
    #[serde(default)]
    pub rollout: Rollout,
}

impl ModelDeploymentSpec {
    /// The fields that are given and that only a cluster obeys.
    pub(crate) fn cluster_fields(&self) -> Vec<&'static str> {
        let fields = [
            ("model.secretName", self.model.secret_name.is_some()),
            ("accelerator", self.accelerator.is_some()),
            ("scaling", self.scaling.is_some()),
            ("placement", self.placement.is_some()),
            ("podTemplate", self.pod_template.is_some()),
        ];
        fields.into_iter().filter(|(_, is_given)| *is_given).map(|(field, _)| field).collect()
    }
}

fn default_replicas() -> u32 {
    1
}

/// Which model, and what clients call it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Where the weights are: `file:///path`, `hf://owner/repository[@revision][/file]`,
    /// `https://host/path`, `oci://registry/repository:tag`, `s3://bucket/key` or, on a cluster,
    /// `pvc://claim/path`. A GGUF file, or a directory with config.json and safetensors. With
    /// backend sim also `sim://profile`, which has none.
    #[x_kube(validation = (
        "['file:///', 'hf://', 'https://', 'oci://', 's3://', 'pvc://', 'sim://']\
         .exists(s, self.startsWith(s) && self.size() > s.size())",
        "must start with file:///, hf://, https://, oci://, s3://, pvc:// or sim:// and name \
         something there"
    ), validation = (
        "!self.startsWith('pvc://') || \
         self.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?$') && !self.contains('..')",
        "must be of the form pvc://CLAIM/PATH, without .. in the path"
    ))]
    #[schemars(regex(pattern = r"^\S+$"), length(min = 1, max = 2048))]
    pub uri: String,
    /// SHA-256 of the weights, 64 lower-case hexadecimal digits; others are refused. Of a
    /// directory: of its sorted `sha256sum` lines. Default: none, anything is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// A Secret in the same namespace that opens the weights, by its keys: `HF_TOKEN`;
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; `.dockerconfigjson`
    /// for oci. Default: none, they are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub secret_name: Option<String>,
    /// What clients put into `model`; unique among all model deployments; the first is the
    /// canonical one. Default: metadata.name.
    #[x_kube(validation = (
        "self.all(name, self.exists_one(other, other == name))",
        "the same name is listed twice"
    ))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._/:-]*$"))
    )]
    pub names: Option<Vec<String>>,
}

/// What computes.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendName {
    /// The processor's cores.
    #[default]
    Cpu,
    /// One GPU of NVIDIA for each rank.
    Cuda,
    /// Nothing: a model of an engine says how long an answer takes.
    Sim,
}

/// Limits of the engine in each replica.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "self.maxBatchTokens >= self.maxSequences",
        "maxBatchTokens must be at least maxSequences: every running sequence adds a token to \
         each step"
    ),
    validation = (
        "quantity(string(self.kvCacheMemory)).isGreaterThan(quantity('0'))",
        "kvCacheMemory must be more than 0"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Engine {
    /// Sequences decoded together; more wait. Default: 64.
    #[serde(default = "defaults::max_sequences")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_sequences: u32,
    /// Tokens computed in one step, of prompts and running sequences together. Default: 512.
    #[serde(default = "defaults::max_batch_tokens")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_batch_tokens: u32,
    /// Tokens of one sequence, prompt and answer together. Default: the model's own maximum, as
    /// far as the KV cache holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_777_216))]
    pub max_context_tokens: Option<u32>,
    /// Memory of the KV cache of each member, in bytes or with a suffix (512Mi, 2Gi); with
    /// backend cuda the GPU's. Default: 1Gi.
    #[serde(default = "defaults::kv_cache_memory")]
    pub kv_cache_memory: MemoryQuantity,
    /// Who may reuse the KV cache of an equal beginning of a prompt. `tenant`: requests of the
    /// same tenant; `off`: nobody. Default: tenant.
    #[serde(default = "defaults::prefix_cache")]
    pub prefix_cache: PrefixCachePolicy,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            max_sequences: defaults::max_sequences(),
            max_batch_tokens: defaults::max_batch_tokens(),
            max_context_tokens: None,
            kv_cache_memory: defaults::kv_cache_memory(),
            prefix_cache: defaults::prefix_cache(),
        }
    }
}

/// The engine's defaults, one function each because serde asks for functions.
mod defaults {
    use super::{MemoryQuantity, PrefixCachePolicy};

    pub(super) fn max_sequences() -> u32 {
        64
    }

    pub(super) fn max_batch_tokens() -> u32 {
        512
    }

    pub(super) fn kv_cache_memory() -> MemoryQuantity {
        MemoryQuantity("1Gi".into())
    }

    pub(super) fn prefix_cache() -> PrefixCachePolicy {
        PrefixCachePolicy::Tenant
    }
}

/// Who may reuse the KV cache of an equal beginning of a prompt.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefixCachePolicy {
    /// Requests of the same tenant.
    #[default]
    Tenant,
    /// Nobody.
    Off,
}

/// What each member may use of the machine it runs on.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "!has(self.requests) || !has(self.limits) || !has(self.requests.cpu) || \
         !has(self.limits.cpu) || \
         quantity(string(self.requests.cpu)).compareTo(quantity(string(self.limits.cpu))) <= 0",
        "requests.cpu must not be more than limits.cpu"
    ),
    validation = (
        "!has(self.requests) || !has(self.limits) || !has(self.requests.memory) || \
         !has(self.limits.memory) || \
         quantity(string(self.requests.memory)).compareTo(quantity(string(self.limits.memory))) \
         <= 0",
        "requests.memory must not be more than limits.memory"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What must be free for a member to start. Default: nothing is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceAmounts>,
    /// What a member may use at most. Default: the machine, divided among the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceAmounts>,
}

/// Amounts of processor and memory.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceAmounts {
    /// Cores (4) or thousandths of one (500m). Compute threads are the limit, else the request,
    /// rounded down, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuQuantity>,
    /// Bytes, or with a suffix (512Mi, 2Gi).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryQuantity>,
}
