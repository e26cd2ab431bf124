//! The nouns users write: the custom resources, their schema, defaults and CEL rules.
//!
//! A document passes four gates, the same here as on an API server, then becomes one of
//! naru-plan's nouns, which cannot be wrong any more:
//!
//! ```text
//! text ──► yaml (bounded) ──► schema ──► defaults ──► CEL rules ──► parse ──► naru_plan::Desired
//! ```

mod crd;
mod document;
mod model_deployment;
mod parse;
mod problem;
mod quantity;
mod schema;
mod yaml;

pub use crd::{FILES, crds, to_yaml};
pub use document::{KINDS, Source, check};
pub use model_deployment::{
    BackendName, Engine, Model, ModelDeployment, ModelDeploymentSpec, ModelDeploymentStatus,
    PrefixCachePolicy, ResourceAmounts, Resources, Rollout,
};
pub use parse::parse;
pub use problem::{Problem, ProblemReason, name_taken};
pub use quantity::{CpuQuantity, MemoryQuantity};
