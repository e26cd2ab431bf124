//! What is only simulated: that it is, and the watts of the model.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use prometheus::{CounterVec, GaugeVec, IntGauge, Opts};

use super::Builder;
use crate::sim::Meter;

/// Where the watts come from.
const SOURCE: &str = "model";

pub(super) struct Simulation {
    simulated: IntGauge,
    watts: GaugeVec,
    /// Locked while it is raised, so that two who look do not both raise it.
    joules: Mutex<CounterVec>,
    meter: OnceLock<Arc<Meter>>,
}

impl Simulation {
    /// Nothing is simulated yet.
    pub(super) fn new(build: &Builder<'_>) -> Self {
        let opts = |name: &str, help: &str| Opts::new(format!("naru_worker_{name}"), help);
        let simulated = IntGauge::with_opts(opts(
            "simulated",
            "1 if answers, time and watts are simulated, else 0",
        ));
        let watts = GaugeVec::new(
            opts("power_watts", "Drawn now by the accelerators of this worker"),
            &["source"],
        );
        let joules = CounterVec::new(
            opts("energy_joules_total", "Drawn so far by the accelerators of this worker"),
            &["source"],
        );
        Self {
            simulated: build.keep(simulated),
            watts: build.keep(watts),
            joules: Mutex::new(build.keep(joules)),
            meter: OnceLock::new(),
        }
    }

    /// From now on `meter` is shown.
    pub(super) fn start(&self, meter: Arc<Meter>) {
        let first = self.meter.set(meter).is_ok();
        assert!(first, "a member loads once");
        self.simulated.set(1);
    }

    /// Looks at the meter now.
    pub(super) fn look(&self) {
        let Some(meter) = self.meter.get() else { return };
        let joules = self.joules.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = meter.read(Instant::now());
        self.watts.with_label_values(&[SOURCE]).set(reading.watts);
        let joules = joules.with_label_values(&[SOURCE]);
        joules.inc_by((reading.joules - joules.get()).max(0.0));
    }
}
