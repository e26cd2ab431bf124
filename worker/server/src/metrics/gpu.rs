//! What the GPUs in use say of themselves, by NVML.

use std::sync::OnceLock;

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::{Device, Nvml};
use prometheus::{CounterVec, GaugeVec, Opts};

use super::Builder;

/// Watts, energy, memory and clock, by the device's bus address; without a GPU there are none.
pub(super) struct Gpu {
    watts: GaugeVec,
    power_limit_watts: GaugeVec,
    joules: CounterVec,
    memory_bytes: GaugeVec,
    clock_hertz: GaugeVec,
    watched: OnceLock<Watched>,
}

struct Watched {
    nvml: Nvml,
    pci_bus_ids: Vec<String>,
}

impl Gpu {
    /// None watched yet.
    pub(super) fn new(build: &Builder<'_>) -> Self {
        let level =
            |name: &str, help: &str| build.keep(GaugeVec::new(Opts::new(name, help), &["device"]));
        let joules = Opts::new("naru_worker_gpu_energy_joules_total", "Energy that it used");
        Self {
            watts: level("naru_worker_gpu_watts", "Power that it draws, of the last second"),
            power_limit_watts: level("naru_worker_gpu_power_limit_watts", "Power that it may draw"),
            joules: build.keep(CounterVec::new(joules, &["device"])),
            memory_bytes: level("naru_worker_gpu_memory_bytes", "Memory in use, by anybody"),
            clock_hertz: level("naru_worker_gpu_clock_hertz", "Clock of its multiprocessors"),
            watched: OnceLock::new(),
        }
    }

    /// From now on looks at the devices with these bus addresses. Without NVML there is nothing to
    /// see.
    pub(super) fn watch(&self, pci_bus_ids: Vec<String>) {
        match Nvml::init() {
            Ok(nvml) => drop(self.watched.set(Watched { nvml, pci_bus_ids })),
            Err(error) => tracing::warn!(%error, "no readings of GPUs: NVML cannot be used"),
        }
    }

    /// Looks at them now. What a device does not tell is left as it was.
    pub(super) fn look(&self) {
        let Some(Watched { nvml, pci_bus_ids }) = self.watched.get() else { return };
        for pci_bus_id in pci_bus_ids {
            if let Ok(device) = nvml.device_by_pci_bus_id(pci_bus_id.as_str()) {
                self.read(&device, pci_bus_id);
            }
        }
    }

    fn read(&self, device: &Device<'_>, id: &str) {
        let show = |metric: &GaugeVec, value: Option<f64>| {
            if let Some(value) = value {
                metric.with_label_values(&[id]).set(value);
            }
        };
        let from_thousandths = |value: u32| f64::from(value) / 1000.0;
        show(&self.watts, device.power_usage().ok().map(from_thousandths));
        show(&self.power_limit_watts, device.enforced_power_limit().ok().map(from_thousandths));
        show(&self.memory_bytes, device.memory_info().ok().map(|memory| memory.used as f64));
        let megahertz = device.clock_info(Clock::SM).ok().map(f64::from);
        show(&self.clock_hertz, megahertz.map(|clock| clock * 1e6));
        if let Ok(millijoules) = device.total_energy_consumption() {
            // The device counts since its driver was loaded.
            let joules = self.joules.with_label_values(&[id]);
            joules.inc_by((millijoules as f64 / 1000.0 - joules.get()).max(0.0));
        }
    }
}
