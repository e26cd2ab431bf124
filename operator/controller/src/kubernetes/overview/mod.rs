//! What serves, what waits and why, for a person at a terminal: looked at once, with the rights of
//! whoever asks, and nothing but read.
//!
//! ```text
//! lists ──► facts (pure) ──► Overview ──► screen (pure) ──► text
//! ```

mod facts;
mod look;
mod queues;
mod screen;
mod table;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use naru_api::ScalingDecision;
use serde::Serialize;

pub use self::look::{LookError, Scope, look};
pub use self::screen::{Style, screen};

/// What is looked at, and what could not be.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// By namespace and name.
    pub model_deployments: Vec<Deployment>,
    /// By name.
    pub power_budgets: Vec<Budget>,
    /// What is missing here, and why: a right, mostly.
    pub notes: Vec<String>,
}

/// One model deployment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
    /// Since when it is wished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// What clients put into `model`.
    pub serves: Vec<String>,
    /// Where the weights come from.
    pub uri: String,
    /// What computes.
    pub backend: String,
    /// Where members may run; empty: anywhere.
    pub zones: Vec<String>,
    /// Replicas that are wished.
    pub wished: u64,
    /// Replicas that answer.
    pub ready: u64,
    /// Replicas of the present template; `None`: not reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated: Option<u64>,
    /// Whether it is Ready, and the reason.
    pub is_ready: bool,
    /// The reason of that.
    pub reason: String,
    /// Watts that it is charged; `None`: it draws from no budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charged_watts: Option<u64>,
    /// What is true of it, and why.
    pub conditions: Vec<Condition>,
    /// The last times naru chose another number of replicas, the newest last.
    pub scaling: Vec<ScalingDecision>,
    /// By name; empty when they could not be looked at.
    pub replicas: Vec<Replica>,
}

/// One replica.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// What it is called.
    pub name: String,
    /// What it is doing.
    pub phase: String,
    /// Why it does not answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The zone of that node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Where it answers gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Since when it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
    /// The template it was made from.
    pub revision: String,
    /// How often it ended by itself.
    pub failures: u32,
    /// Its requests; `None`: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
}

/// The requests of one replica, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Being answered.
    pub running: u64,
    /// In the queue.
    pub waiting: u64,
}

/// One power budget.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// What it is called.
    pub name: String,
    /// The budget that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Watts that the domain may draw now.
    pub watts: u64,
    /// Watts that replicas are charged; `None`: nobody reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charged_watts: Option<u64>,
    /// Watts that are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom_watts: Option<u64>,
    /// Why it does not hold; `None`: it does, or nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

impl Deployment {
    /// The requests of all replicas; `None`: of none they are known.
    fn queue(&self) -> Option<Queue> {
        let known = self.replicas.iter().filter_map(|replica| replica.queue);
        known.reduce(|sum, queue| Queue {
            running: sum.running + queue.running,
            waiting: sum.waiting + queue.waiting,
        })
    }
}

impl Overview {
    /// As programs read it.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.to_value())
    }

    /// As programs read it, and people too.
    pub fn to_yaml(&self) -> String {
        naru_api::to_yaml(&self.to_value())
    }

    fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("names, numbers and times are JSON")
    }
}
