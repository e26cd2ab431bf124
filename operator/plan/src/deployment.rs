//! What is wished: one model deployment, parsed.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{
    DeploymentName, LabelValue, ModelUri, ObjectName, ResourceName, ServedNames, Sha256, ZoneName,
};
use crate::parallelism::Parallelism;
use crate::power::PowerWish;
use crate::rollout::Rollout;
use crate::scaling::ScalingWish;
use crate::tenant::Access;
use crate::units::{Bytes, Millicores, Millis, ReplicaCount, Threads};

/// A model deployment that parsed: every field is in range and every default is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Which deployment this is.
    pub name: DeploymentName,
    /// What each replica runs; another template means other workers.
    pub template: Template,
    /// How many replicas should answer.
    pub replicas: ReplicaCount,
    /// Within which bounds naru chooses that number itself; `None`: it is somebody else's.
    pub scaling: Option<ScalingWish>,
    /// Whose requests it answers.
    pub access: Access,
    /// How replicas of an older template give way.
    pub rollout: Rollout,
    /// How long running streams may take to finish when a replica goes.
    pub drain: Millis,
    /// Which budget its watts come from; `None`: from none, nothing is charged.
    pub power: Option<PowerWish>,
}

impl Desired {
    /// The same deployment once nobody wishes it any more: no replica, drained as promised, and no
    /// load brings one back.
    pub fn without_replicas(&self) -> Self {
        Self { replicas: ReplicaCount(0), scaling: None, ..self.clone() }
    }
}

/// Everything about a replica that only a new worker can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The weights.
    pub model: ModelSource,
    /// The names clients ask for.
    pub names: ServedNames,
    /// What computes.
    pub backend: Backend,
    /// The limits of the engine.
    pub engine: EngineLimits,
    /// Into how many ranks a replica is cut.
    pub parallelism: Parallelism,
    /// What each member may use of the machine.
    pub resources: Resources,
    /// Where members may run; empty: anywhere.
    pub zones: BTreeSet<ZoneName>,
    /// What its world is told about members beyond all this.
    pub overlay: Overlay,
    /// What its world makes members from; no wish says it.
    pub program: Program,
}

/// Words about members that only the world which runs them reads; other words, other workers.
///
/// The planner compares them and does not know what they mean. Empty: nothing more to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay(pub String);

/// The program that members are, in words that only the world which runs them reads: another one,
/// other workers. Empty: the world has but one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program(pub String);

/// Where weights come from and what they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// Where to fetch them.
    pub uri: ModelUri,
    /// Refuse anything else, when given.
    pub sha256: Option<Sha256>,
    /// What opens them, kept by their world; `None`: they are open.
    pub secret: Option<ObjectName>,
}

/// What computes a replica's steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The processor's cores.
    Cpu,
    /// Accelerators: one for each rank.
    Cuda(Accelerator),
    /// Nothing: it takes the time and the watts that a model of an engine would, and says so.
    Sim,
}

/// The accelerators of members, in words of the world that hands them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// As what they are counted.
    pub resource: ResourceName,
    /// Which product; `None`: any.
    pub product: Option<LabelValue>,
    /// What runs members so that they reach it; `None`: what runs everything there.
    pub runtime: Option<ObjectName>,
}

/// How much the engine takes on at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Sequences decoded together.
    pub max_sequences: u32,
    /// Tokens of one step, prompts and decodes together.
    pub max_batch_tokens: u32,
    /// Tokens of one sequence; `None`: what the model was made for.
    pub max_context_tokens: Option<u32>,
    /// Memory of the KV cache.
    pub kv_cache: Bytes,
    /// Who may reuse whose prefixes.
    pub prefix_cache: PrefixCache,
}

/// Who may reuse the KV blocks of an equal prompt prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrefixCache {
    /// Nobody.
    Off,
    /// Requests of the same tenant.
    Tenant,
}

/// What one member may use of the machine it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Compute threads; `None`: the world divides its cores.
    pub threads: Option<Threads>,
    /// Memory that must be free before a member is started.
    pub memory: Option<Bytes>,
    /// What is asked for each member, as it was written.
    pub requests: Amounts,
    /// What each member may use at most, as it was written.
    pub limits: Amounts,
}

/// Amounts of processor and memory; `None`: not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Processor time.
    pub cpu: Option<Millicores>,
    /// Memory.
    pub memory: Option<Bytes>,
}

/// A short name of a template: equal templates have equal revisions, on every machine and build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Template {
    /// Memory that must be free before a replica is started: that of all its members.
    pub fn memory(&self) -> Bytes {
        let Bytes(each) = self.resources.memory.unwrap_or_default();
        Bytes(each.saturating_mul(self.parallelism.members().into()))
    }

    /// FNV-1a (64 bits) over the fields written out in a fixed order.
    pub fn revision(&self) -> Revision {
        let mut hash = Fnv1a::new();
        hash.field("uri", self.model.uri.as_str());
        hash.field("sha256", self.model.sha256.as_ref().map_or("", Sha256::as_str));
        for name in self.names.iter() {
            hash.field("name", name.as_str());
        }
        hash.field(
            "backend",
            match self.backend {
                Backend::Cpu => "cpu",
                Backend::Cuda(_) => "cuda",
                Backend::Sim => "sim",
            },
        );
        hash.field("maxSequences", &self.engine.max_sequences.to_string());
        hash.field("maxBatchTokens", &self.engine.max_batch_tokens.to_string());
        let context = self.engine.max_context_tokens.map(|tokens| tokens.to_string());
        hash.field("maxContextTokens", context.as_deref().unwrap_or(""));
        hash.field("kvCacheMemory", &self.engine.kv_cache.0.to_string());
        hash.field(
            "prefixCache",
            match self.engine.prefix_cache {
                PrefixCache::Off => "off",
                PrefixCache::Tenant => "tenant",
            },
        );
        let threads = self.resources.threads.map(|threads| threads.0.to_string());
        hash.field("threads", threads.as_deref().unwrap_or(""));
        let memory = self.resources.memory.map(|memory| memory.0.to_string());
        hash.field("memory", memory.as_deref().unwrap_or(""));
        self.placed(&mut hash);
        Revision(hash.0)
    }

    /// What was added later is written only where it says something, so that a new version of
    /// naru does not replace the workers of those who do not use it.
    fn placed(&self, hash: &mut Fnv1a) {
        let Resources { requests, limits, .. } = self.resources;
        for (name, amounts) in [("requests", requests), ("limits", limits)] {
            if let Some(Millicores(cpu)) = amounts.cpu {
                hash.field(&format!("{name}.cpu"), &cpu.to_string());
            }
            if let Some(Bytes(memory)) = amounts.memory {
                hash.field(&format!("{name}.memory"), &memory.to_string());
            }
        }
        if let Some(secret) = &self.model.secret {
            hash.field("secret", secret.as_str());
        }
        if let Backend::Cuda(Accelerator { resource, product, runtime }) = &self.backend {
            hash.field("accelerator.resource", resource.as_str());
            hash.field("accelerator.product", product.as_ref().map_or("", LabelValue::as_str));
            hash.field("accelerator.runtime", runtime.as_ref().map_or("", ObjectName::as_str));
        }
        if self.parallelism != Parallelism::default() {
            hash.field("tensor", &self.parallelism.tensor().to_string());
            hash.field("pipeline", &self.parallelism.pipeline().to_string());
            hash.field("devicesPerMember", &self.parallelism.devices_per_member().to_string());
        }
        for zone in &self.zones {
            hash.field("zone", zone.as_str());
        }
        if !self.overlay.0.is_empty() {
            hash.field("overlay", &self.overlay.0);
        }
        if !self.program.0.is_empty() {
            hash.field("program", &self.program.0);
        }
    }
}

struct Fnv1a(u64);

impl Fnv1a {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Length first, so that no two lists of fields write the same bytes.
    fn field(&mut self, name: &str, value: &str) {
        for part in [name, value] {
            self.bytes(&(part.len() as u64).to_le_bytes());
            self.bytes(part.as_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
