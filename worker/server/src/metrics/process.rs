//! What the process itself uses.

use prometheus::{Gauge, IntGauge};

use super::Builder;
use crate::clock;

/// Memory, file descriptors and age.
pub(super) struct Process {
    resident_bytes: IntGauge,
    open_fds: IntGauge,
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
        }
    }

    /// Looks at them now.
    pub(super) fn look(&self) {
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes);
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            self.open_fds.set(fds.count() as i64);
        }
    }
}

/// Resident memory by `/proc/self/status`, which gives it in KiB.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
