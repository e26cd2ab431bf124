//! The nouns users write: the custom resources, their schema, defaults and CEL rules.
//!
//! A document passes four gates, the same here as on an API server, then becomes one of
//! naru-plan's nouns, which cannot be wrong any more:
//!
//! ```text
//! text ──► yaml (bounded) ──► schema ──► defaults ──► CEL rules ──► parse ──► Wishes
//! ```

mod accelerator;
mod access;
mod advice;
mod conflicts;
mod crd;
mod document;
mod kind;
mod labels;
mod metadata;
mod model_deployment;
mod parallelism;
mod parse;
mod pod_template;
mod power_budget;
mod problem;
mod quantity;
mod rollout;
mod scaling;
mod schema;
mod status;
mod tenant;
mod yaml;

pub use accelerator::{Accelerator, NVIDIA_GPU, NVIDIA_GPU_PRODUCT};
pub use access::{Access, Placement, Power, TenantSelector};
pub use advice::{Advice, advice, advised, conditions_page};
pub use crd::{FILES, crds, to_yaml};
pub use document::{Source, Wishes, check};
pub use kind::KINDS;
pub use model_deployment::{
    BackendName, Engine, Model, ModelDeployment, ModelDeploymentSpec, PrefixCachePolicy,
    ResourceAmounts, Resources,
};
pub use parallelism::Parallelism;
pub use parse::parse;
pub use pod_template::{
    ClaimSource, ConfigMapSource, PodTemplate, SecretKey, SecretSource, TaintEffect, Toleration,
    TolerationOperator, ValueSource, Variable, Volume,
};
pub use power_budget::{
    Day, PowerBudget, PowerBudgetSpec, PowerBudgetStatus, Window, parse_power_budget,
};
pub use problem::{Problem, ProblemReason, key_taken, name_taken};
pub use quantity::{CpuQuantity, MemoryQuantity};
pub use scaling::{Scaling, ScalingTargets};
pub use status::{
    DECISIONS_KEPT, Enforcement, ModelDeploymentStatus, PowerStatus, ScalingDecision,
};
pub use tenant::{Key, Quota, Tenant, TenantSpec, parse_tenant};
