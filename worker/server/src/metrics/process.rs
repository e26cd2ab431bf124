//! What the process itself uses.

use naru_protocol::process::Usage;
use prometheus::{Counter, Gauge, IntGauge};

use super::Builder;
use crate::clock;

/// Memory, file descriptors, processor time and age.
pub(super) struct Process {
    resident_bytes: IntGauge,
    open_fds: IntGauge,
    cpu_seconds: Counter,
}

impl Process {
    /// None looked at yet.
    pub(super) fn new(build: &Builder<'_>) -> Self {
        let level = |name: &str, help: &str| build.keep(IntGauge::new(name, help));
        let start_time = build
            .keep(Gauge::new("process_start_time_seconds", "Start of the process, Unix seconds"));
        start_time.set(clock::unix_seconds() as f64);
        Self {
            resident_bytes: level("process_resident_memory_bytes", "Memory in use"),
            open_fds: level("process_open_fds", "Open file descriptors"),
            cpu_seconds: build
                .keep(Counter::new("process_cpu_seconds_total", "Processor time used, seconds")),
        }
    }

    /// Looks at them now.
    pub(super) fn look(&self) {
        let usage = Usage::now();
        let set = |gauge: &IntGauge, value: Option<u64>| {
            if let Some(value) = value {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        };
        set(&self.resident_bytes, usage.resident_bytes);
        set(&self.open_fds, usage.open_fds);
        if let Some(seconds) = usage.cpu_seconds {
            // Two who ask at once must not have it counted back.
            self.cpu_seconds.inc_by((seconds - self.cpu_seconds.get()).max(0.0));
        }
    }
}
