//! From what users write to what the planner decides on; after this nothing can be wrong.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};

use naru_plan::power::PowerWish;
use naru_plan::{
    Amounts, Backend, BudgetName, Bytes, DeploymentName, Desired, EngineLimits, LabelValue,
    Millicores, Millis, ModelSource, ModelUri, ObjectName, PrefixCache, Program, ReplicaCount,
    ResourceName, ScalingWish, ServedName, ServedNames, Sha256, Strategy, Template, TenantName,
    Threads, TokenCount, Watts, ZoneName,
};

use crate::accelerator::Accelerator;
use crate::access::{Access, Placement, Power};
use crate::model_deployment::{
    BackendName, Engine, Model, ModelDeployment, PrefixCachePolicy, ResourceAmounts, Resources,
};
use crate::parallelism::Parallelism;
use crate::pod_template::PodTemplate;
use crate::problem::{Finding, Findings};
use crate::rollout::{Rollout, StrategyName};
use crate::scaling::Scaling;

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Parses a model deployment that passed schema and rules.
///
/// Errors: every field that still has no meaning, as path and words; on an API server the same
/// ones become conditions.
pub fn parse(deployment: &ModelDeployment) -> Result<Desired, Vec<(String, String)>> {
    parse_fields(deployment).map_err(Finding::into_pairs)
}

pub(crate) fn parse_fields(deployment: &ModelDeployment) -> Result<Desired, Vec<Finding>> {
    let mut findings = Findings::default();
    let metadata = &deployment.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let object = metadata.name.as_deref().unwrap_or_default();
    let spec = &deployment.spec;
    let name = findings.keep(DeploymentName::parse(namespace, object), "metadata.name");
    let template = parse_template(deployment, object, &mut findings);
    let access = parse_access(spec.access.as_ref(), &mut findings);
    let devices = template.as_ref().map_or(1, |template| template.parallelism.ranks());
    let power = spec.power.as_ref();
    let power = power.and_then(|power| parse_power(power, devices, &mut findings));
    findings.or(name.zip(template).map(|(name, template)| Desired {
        name,
        template,
        replicas: ReplicaCount(spec.replicas),
        scaling: spec.scaling.as_ref().map(parse_scaling),
        access,
        rollout: parse_rollout(&spec.rollout),
        drain: Millis::from_seconds(spec.rollout.drain_seconds.into()),
        power,
    }))
}

fn parse_template(
    deployment: &ModelDeployment,
    object: &str,
    findings: &mut Findings,
) -> Option<Template> {
    let spec = &deployment.spec;
    let model = parse_model(&spec.model, findings);
    let names = parse_names(spec.model.names.as_deref(), object, findings);
    let backend = match spec.backend {
        BackendName::Cpu => Some(Backend::Cpu),
        BackendName::Cuda => parse_accelerator(spec.accelerator.as_ref(), findings),
        BackendName::Sim => Some(Backend::Sim),
    };
    let engine = parse_engine(&spec.engine, findings);
    let resources = parse_resources(&spec.resources, findings);
    let zones = parse_zones(spec.placement.as_ref(), findings);
    let Parallelism { tensor, pipeline, devices_per_member } =
        spec.parallelism.clone().unwrap_or_default();
    let parallelism = naru_plan::Parallelism::new(tensor, pipeline, devices_per_member);
    let parallelism = findings.keep(parallelism, "spec.parallelism");
    Some(Template {
        model: model?,
        names: names?,
        backend: backend?,
        engine: engine?,
        parallelism: parallelism?,
        resources,
        zones,
        overlay: spec.pod_template.as_ref().map(PodTemplate::to_overlay).unwrap_or_default(),
        program: Program::default(),
    })
}

fn parse_model(model: &Model, findings: &mut Findings) -> Option<ModelSource> {
    let uri = findings.keep(ModelUri::parse(&model.uri), "spec.model.uri")?;
    let sha256 = model.sha256.as_deref().map(Sha256::parse).transpose();
    let secret = model.secret_name.as_deref().map(ObjectName::parse).transpose();
    Some(ModelSource {
        uri,
        sha256: findings.keep(sha256, "spec.model.sha256")?,
        secret: findings.keep(secret, "spec.model.secretName")?,
    })
}

fn parse_accelerator(
    accelerator: Option<&Accelerator>,
    findings: &mut Findings,
) -> Option<Backend> {
    let Accelerator { resource, product, runtime_class_name } =
        &accelerator.cloned().unwrap_or_default();
    let resource = findings.keep(ResourceName::parse(resource), "spec.accelerator.resource");
    let product = product.as_deref().map(LabelValue::parse).transpose();
    let product = findings.keep(product, "spec.accelerator.product");
    let runtime = runtime_class_name.as_deref().map(ObjectName::parse).transpose();
    let runtime = findings.keep(runtime, "spec.accelerator.runtimeClassName");
    let (resource, product, runtime) = (resource?, product?, runtime?);
    Some(Backend::Cuda(naru_plan::Accelerator { resource, product, runtime }))
}

fn parse_names(
    names: Option<&[String]>,
    object: &str,
    findings: &mut Findings,
) -> Option<ServedNames> {
    let object = [object.to_owned()];
    let mut parsed = Vec::new();
    for (index, name) in names.unwrap_or(&object).iter().enumerate() {
        let path = format!("spec.model.names[{index}]");
        parsed.extend(findings.keep(ServedName::parse(name), &path));
    }
    findings.keep(ServedNames::new(parsed), "spec.model.names")
}

fn parse_engine(engine: &Engine, findings: &mut Findings) -> Option<EngineLimits> {
    let kv_cache = engine.kv_cache_memory.bytes().ok_or("is no amount of memory");
    Some(EngineLimits {
        max_sequences: engine.max_sequences,
        max_batch_tokens: engine.max_batch_tokens,
        max_context_tokens: engine.max_context_tokens,
        kv_cache: Bytes(findings.keep(kv_cache, "spec.engine.kvCacheMemory")?),
        prefix_cache: match engine.prefix_cache {
            PrefixCachePolicy::Tenant => PrefixCache::Tenant,
            PrefixCachePolicy::Off => PrefixCache::Off,
        },
    })
}

fn parse_resources(resources: &Resources, findings: &mut Findings) -> naru_plan::Resources {
    let requests = parse_amounts(resources.requests.as_ref(), "requests", findings);
    let limits = parse_amounts(resources.limits.as_ref(), "limits", findings);
    let whole_cores = |Millicores(millicores)| {
        let cores = usize::try_from(millicores / 1000).unwrap_or(usize::MAX);
        Threads(NonZeroUsize::new(cores).unwrap_or(NonZeroUsize::MIN))
    };
    naru_plan::Resources {
        threads: limits.cpu.or(requests.cpu).map(whole_cores),
        memory: requests.memory.or(limits.memory),
        requests,
        limits,
    }
}

fn parse_amounts(
    amounts: Option<&ResourceAmounts>,
    field: &str,
    findings: &mut Findings,
) -> Amounts {
    let Some(ResourceAmounts { cpu, memory }) = amounts else { return Amounts::default() };
    let path = format!("spec.resources.{field}");
    let cpu = cpu.as_ref().and_then(|cpu| {
        let amount = cpu.millicores().ok_or("is no amount of processor");
        findings.keep(amount, &format!("{path}.cpu"))
    });
    let memory = memory.as_ref().and_then(|memory| {
        let amount = memory.bytes().ok_or("is no amount of memory");
        findings.keep(amount, &format!("{path}.memory"))
    });
    Amounts { cpu: cpu.map(Millicores), memory: memory.map(Bytes) }
}

fn parse_zones(placement: Option<&Placement>, findings: &mut Findings) -> BTreeSet<ZoneName> {
    let zones = placement.and_then(|placement| placement.zones.as_deref()).unwrap_or_default();
    let mut parsed = BTreeSet::new();
    for (index, zone) in zones.iter().enumerate() {
        let path = format!("spec.placement.zones[{index}]");
        parsed.extend(findings.keep(ZoneName::parse(zone), &path));
    }
    parsed
}

fn parse_access(access: Option<&Access>, findings: &mut Findings) -> naru_plan::Access {
    let Some(Access { tenants, selector }) = access else { return naru_plan::Access::All };
    if let Some(selector) = selector {
        return naru_plan::Access::Labels(selector.match_labels.clone());
    }
    let mut names = BTreeSet::new();
    for (index, tenant) in tenants.iter().flatten().enumerate() {
        let path = format!("spec.access.tenants[{index}]");
        names.extend(findings.keep(TenantName::parse(tenant), &path));
    }
    naru_plan::Access::Tenants(names)
}

fn parse_rollout(rollout: &Rollout) -> naru_plan::Rollout {
    let at_least_one =
        |number: Option<u32>| number.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    naru_plan::Rollout {
        strategy: match rollout.strategy {
            StrategyName::Surge => Strategy::Surge {
                max_surge: at_least_one(rollout.max_surge),
                max_unavailable: rollout.max_unavailable.unwrap_or(0),
            },
            StrategyName::InPlace => {
                Strategy::InPlace { max_unavailable: at_least_one(rollout.max_unavailable) }
            }
        },
        canary: Millis::from_seconds(rollout.canary_seconds.into()),
        deadline: Millis::from_seconds(rollout.progress_deadline_seconds.into()),
    }
}

/// A replica is charged for all its `devices`.
fn parse_power(power: &Power, devices: u32, findings: &mut Findings) -> Option<PowerWish> {
    let budget = findings.keep(BudgetName::parse(&power.budget), "spec.power.budget")?;
    let watts_per_replica = Watts(u64::from(power.max_watts_per_device) * u64::from(devices));
    Some(PowerWish { budget, watts_per_replica, priority: power.priority })
}

fn parse_scaling(scaling: &Scaling) -> ScalingWish {
    ScalingWish {
        min: ReplicaCount(scaling.min_replicas),
        max: ReplicaCount(scaling.max_replicas),
        queued_tokens_per_replica: TokenCount(scaling.targets.queued_tokens_per_replica.into()),
        idle_before_zero: Millis::from_seconds(scaling.idle_seconds_before_zero.into()),
    }
}
