//! `spec.parallelism`: into how many ranks a replica is cut.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How each replica is cut: into tensor × pipeline ranks, on as many devices.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = (
        "self.tensor * self.pipeline <= 1024",
        "tensor × pipeline must be at most 1024"
    ),
    validation = (
        "self.tensor * self.pipeline % self.devicesPerMember == 0",
        "devicesPerMember must divide tensor × pipeline"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Parallelism {
    /// Ranks that share each layer. The model's heads must be divisible by it; where they are
    /// not, a condition says what would do. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub tensor: u32,
    /// Stages, each with a part of the layers. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub pipeline: u32,
    /// Ranks of each member, one for each of its devices: a replica has tensor × pipeline ÷
    /// devicesPerMember members. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub devices_per_member: u32,
}

impl Default for Parallelism {
    fn default() -> Self {
        Self { tensor: one(), pipeline: one(), devices_per_member: one() }
    }
}

fn one() -> u32 {
    1
}
