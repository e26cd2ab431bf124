//! The accelerator that each member computes on.
#![allow(unreachable_pub)] // what KubeSchema derives, for itself, is `pub` within a function

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How nodes count GPUs of NVIDIA, and the taint that keeps others away from them.
pub const NVIDIA_GPU: &str = "nvidia.com/gpu";
/// The label by which nodes say which GPU of NVIDIA they have.
pub const NVIDIA_GPU_PRODUCT: &str = "nvidia.com/gpu.product";

/// `DOMAIN/NAME`: DNS labels, apart by dots, then at most 63 characters.
const RESOURCE: &str = concat!(
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    r"/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
);

/// The GPU of each member; one is asked for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accelerator {
    /// The resource as which the device plugin of nodes counts GPUs, or parts of them
    /// (nvidia.com/mig-1g.10gb). Default: nvidia.com/gpu.
    #[x_kube(validation = (
        "!self.contains('kubernetes.io/')",
        "must be a resource of a device plugin, none of Kubernetes' own"
    ))]
    #[serde(default = "default_resource")]
    #[schemars(length(max = 253), regex(pattern = RESOURCE))]
    pub resource: String,
    /// Value of the node label nvidia.com/gpu.product, as GPU feature discovery writes it
    /// (NVIDIA-H100-80GB-HBM3); members run nowhere else. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub product: Option<String>,
    /// The RuntimeClass by which containers get the driver, for clusters where it is not every
    /// container's (nvidia). Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub runtime_class_name: Option<String>,
}

impl Default for Accelerator {
    fn default() -> Self {
        Self { resource: default_resource(), product: None, runtime_class_name: None }
    }
}

fn default_resource() -> String {
    NVIDIA_GPU.to_owned()
}
