//! Every decision naru makes, as functions from data to data.
//!
//! The crate knows no clock, network, thread or cluster: `now` is an argument, what runs is
//! [`Observed`], what is wished is [`Desired`], and what to do about the difference is a [`Plan`]
//! so specific that carrying it out leaves no choice.
//!
//! ```text
//! observe ──► Observed ─┐
//!                       ├─► replicas::plan ──► Plan { actions, conditions, next_check }
//! parse ────► Desired ──┘
//! request, endpoints ─────► route::pick ─────► which endpoint, and why
//! all deployments, budgets ► power::plan ─────► how many replicas of each there is power for
//! ```

mod backoff;
mod condition;
mod deployment;
pub mod group;
mod names;
mod observed;
mod parallelism;
pub mod power;
mod replicas;
mod rollout;
pub mod route;
pub mod scaling;
mod status;
mod tenant;
mod units;

pub use backoff::{BACKOFF_FIRST, BACKOFF_MAX, Failures, STABLE_AFTER};
pub use condition::{Condition, ConditionKind, Reason, Truth};
pub use deployment::{
    Accelerator, Amounts, Backend, Desired, EngineLimits, ModelSource, Overlay, PrefixCache,
    Program, Resources, Revision, Template,
};
pub use names::{
    BudgetName, ClaimedPath, DeploymentName, InvalidName, KeyName, LabelValue, ModelUri,
    ObjectName, ResourceName, ServedName, ServedNames, Sha256, TenantName, ZoneName,
};
pub use observed::{
    Observed, PendingReason, Phase, Replica, ReplicaId, WeightsFault, WorkerFailure,
};
pub use parallelism::{InvalidParallelism, Parallelism};
pub use replicas::{Action, DRAIN_GRACE, NextCheck, Plan, SILENT_MAX, plan};
pub use rollout::{ROLLOUT_FAILURES_MAX, Rollout, Strategy};
pub use scaling::ScalingWish;
pub use tenant::{Access, Tenant, TenantKey};
pub use units::{Bytes, Millicores, Millis, Moment, ReplicaCount, Threads, TokenCount, Watts};
