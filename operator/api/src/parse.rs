//! From what users write to what the planner decides on; after this nothing can be wrong.

use std::num::NonZeroUsize;

use naru_plan::{
    Backend, Bytes, DeploymentName, Desired, EngineLimits, Millis, ModelSource, ModelUri,
    PrefixCache, ReplicaCount, ServedName, ServedNames, Sha256, Template, Threads,
};

use crate::model_deployment::{
    BackendName, Engine, Model, ModelDeployment, PrefixCachePolicy, ResourceAmounts, Resources,
};
use crate::problem::{Finding, ProblemReason};

/// The namespace of an object that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Parses a model deployment that passed schema and rules.
///
/// Errors: every field that still has no meaning, as path and words; on an API server the same
/// ones become conditions.
pub fn parse(deployment: &ModelDeployment) -> Result<Desired, Vec<(String, String)>> {
    let as_pairs = |findings: Vec<Finding>| {
        findings.into_iter().map(|finding| (finding.path, finding.message)).collect()
    };
    parse_fields(deployment).map_err(as_pairs)
}

pub(crate) fn parse_fields(deployment: &ModelDeployment) -> Result<Desired, Vec<Finding>> {
    let mut findings = Vec::new();
    let metadata = &deployment.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let name = metadata.name.as_deref().unwrap_or_default();
    let spec = &deployment.spec;
    let deployment_name =
        keep(DeploymentName::parse(namespace, name), "metadata.name", &mut findings);
    let model = parse_model(&spec.model, &mut findings);
    let names = parse_names(spec.model.names.as_deref(), name, &mut findings);
    let engine = parse_engine(&spec.engine, &mut findings);
    let resources = parse_resources(&spec.resources, &mut findings);
    let (Some(name), Some(model), Some(names), Some(engine), true) =
        (deployment_name, model, names, engine, findings.is_empty())
    else {
        return Err(findings);
    };
    let backend = match spec.backend {
        BackendName::Cpu => Backend::Cpu,
    };
    Ok(Desired {
        name,
        template: Template { model, names, backend, engine, resources },
        replicas: ReplicaCount(spec.replicas),
        drain: Millis::from_seconds(spec.rollout.drain_seconds.into()),
    })
}

/// The value, or a finding at `path`.
fn keep<T, E: ToString>(
    result: Result<T, E>,
    path: &str,
    findings: &mut Vec<Finding>,
) -> Option<T> {
    let refuse = |error: E| Finding::new(path, ProblemReason::Invalid, error.to_string());
    result.map_err(|error| findings.push(refuse(error))).ok()
}

fn parse_model(model: &Model, findings: &mut Vec<Finding>) -> Option<ModelSource> {
    let uri = keep(ModelUri::parse(&model.uri), "spec.model.uri", findings)?;
    let sha256 = match &model.sha256 {
        Some(text) => Some(keep(Sha256::parse(text), "spec.model.sha256", findings)?),
        None => None,
    };
    Some(ModelSource { uri, sha256 })
}

fn parse_names(
    names: Option<&[String]>,
    object: &str,
    findings: &mut Vec<Finding>,
) -> Option<ServedNames> {
    let object = [object.to_owned()];
    let mut parsed = Vec::new();
    for (index, name) in names.unwrap_or(&object).iter().enumerate() {
        let path = format!("spec.model.names[{index}]");
        parsed.extend(keep(ServedName::parse(name), &path, findings));
    }
    keep(ServedNames::new(parsed), "spec.model.names", findings)
}

fn parse_engine(engine: &Engine, findings: &mut Vec<Finding>) -> Option<EngineLimits> {
    let kv_cache = engine.kv_cache_memory.bytes().ok_or("is no amount of memory");
    Some(EngineLimits {
        max_sequences: engine.max_sequences,
        max_batch_tokens: engine.max_batch_tokens,
        max_context_tokens: engine.max_context_tokens,
        kv_cache: Bytes(keep(kv_cache, "spec.engine.kvCacheMemory", findings)?),
        prefix_cache: match engine.prefix_cache {
            PrefixCachePolicy::Tenant => PrefixCache::Tenant,
            PrefixCachePolicy::Off => PrefixCache::Off,
        },
    })
}

fn parse_resources(resources: &Resources, findings: &mut Vec<Finding>) -> naru_plan::Resources {
    let amounts = |amounts: &Option<ResourceAmounts>| amounts.clone().unwrap_or_default();
    let (limits, requests) = (amounts(&resources.limits), amounts(&resources.requests));
    let whole_cores = |millicores: u64| {
        let cores = usize::try_from(millicores / 1000).unwrap_or(usize::MAX);
        Threads(NonZeroUsize::new(cores).unwrap_or(NonZeroUsize::MIN))
    };
    let cpu = limits.cpu.or(requests.cpu).and_then(|cpu| {
        keep(cpu.millicores().ok_or("is no amount of processor"), "spec.resources", findings)
    });
    let memory = requests.memory.or(limits.memory).and_then(|memory| {
        keep(memory.bytes().ok_or("is no amount of memory"), "spec.resources", findings)
    });
    naru_plan::Resources { threads: cpu.map(whole_cores), memory: memory.map(Bytes) }
}
