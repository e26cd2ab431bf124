//! What the loop acts on: where replicas live, and how they come and go.

use std::future::Future;

use naru_plan::{Action, DeploymentName, Desired, Moment, Observed};
use naru_protocol::Endpoint;

/// A place in which replicas run.
///
/// `observe` tells all there is to know; nothing is remembered between passes outside a world.
pub trait World {
    /// What can go wrong when an action is carried out.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The present, in the world's own count.
    fn now(&self) -> Moment;

    /// Every deployment that has replicas, with the wish they were last made for.
    fn deployments(&self) -> Vec<Desired>;

    /// What runs of one deployment.
    fn observe(&self, name: &DeploymentName) -> Observed;

    /// Carries one action out. Done twice it does no more than once.
    fn apply(
        &mut self,
        desired: &Desired,
        action: Action,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Where the replicas of one deployment answer, those that serve all of its present names.
    fn endpoints(&self, desired: &Desired) -> Vec<Endpoint>;

    /// Unix seconds at which the deployment was first wished.
    fn created_unix_seconds(&self, name: &DeploymentName) -> u64;

    /// Returns when something may have changed. Dropping it loses nothing.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}
