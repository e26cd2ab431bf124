//! What the pod of a member is given so that its container gets a GPU.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, EnvVar, Toleration, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use naru_api::{NVIDIA_GPU, NVIDIA_GPU_PRODUCT};
use naru_plan::{Accelerator, Backend, Desired, LabelValue, ObjectName};

/// What of the driver NVIDIA's runtime puts into the container: CUDA, and what reads watts.
const CAPABILITIES: (&str, &str) = ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility");
/// Memory that processes share; without a volume containers get 64 MiB of it.
const SHARED_MEMORY_DIR: &str = "/dev/shm";
/// The most of it. Only what is written takes memory, of `resources.limits.memory`.
const SHARED_MEMORY_MAX: &str = "1Gi";

/// The accelerator of each member; `None`: it needs none.
pub(super) fn of(desired: &Desired) -> Option<&Accelerator> {
    match &desired.template.backend {
        Backend::Cuda(accelerator) => Some(accelerator),
        Backend::Cpu | Backend::Sim => None,
    }
}

/// So many of what nodes count as a member holds ranks; the cluster takes the limit for the
/// request too.
pub(super) fn limits(desired: &Desired) -> Option<(String, Quantity)> {
    let devices = desired.template.parallelism.devices_per_member();
    Some((of(desired)?.resource.as_str().to_owned(), Quantity(devices.to_string())))
}

/// `selector`, and the product that nodes must have.
pub(super) fn node_selector(
    desired: &Desired,
    mut selector: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let product = of(desired).and_then(|accelerator| accelerator.product.as_ref());
    let label = product.map(LabelValue::as_str);
    selector.extend(label.map(|label| (NVIDIA_GPU_PRODUCT.to_owned(), label.to_owned())));
    selector
}

/// The taints that keep those who need no GPU away from nodes that have some.
pub(super) fn tolerations(desired: &Desired) -> Vec<Toleration> {
    let Some(Accelerator { resource, .. }) = of(desired) else { return Vec::new() };
    let mut keys = vec![NVIDIA_GPU];
    keys.extend(Some(resource.as_str()).filter(|resource| *resource != NVIDIA_GPU));
    let toleration = |key: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    };
    keys.into_iter().map(toleration).collect()
}

pub(super) fn runtime_class(desired: &Desired) -> Option<String> {
    let runtime = of(desired)?.runtime.as_ref();
    runtime.map(ObjectName::as_str).map(str::to_owned)
}

/// Which GPU it is, the device plugin says in a variable of its own.
pub(super) fn env(desired: &Desired) -> Option<EnvVar> {
    of(desired)?;
    let (name, value) = CAPABILITIES;
    Some(EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() })
}

/// The shared memory, and where it is mounted.
pub(super) fn shared_memory(desired: &Desired) -> Option<(Volume, &'static str)> {
    of(desired)?;
    let memory = EmptyDirVolumeSource {
        medium: Some("Memory".to_owned()),
        size_limit: Some(Quantity(SHARED_MEMORY_MAX.to_owned())),
        ..EmptyDirVolumeSource::default()
    };
    let volume =
        Volume { name: "naru-shm".to_owned(), empty_dir: Some(memory), ..Volume::default() };
    Some((volume, SHARED_MEMORY_DIR))
}
