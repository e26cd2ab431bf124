//! What a process uses of its machine, on its page of metrics.

use std::time::{SystemTime, UNIX_EPOCH};

use naru_protocol::process::Usage;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge, Registry};

/// Memory, file descriptors, processor time and age, looked at whenever they are asked for.
struct Process {
    resident_bytes: IntGauge,
    open_fds: IntGauge,
    cpu_seconds: Counter,
    start_time: Gauge,
}

/// Shows them among the others of this registry. Errors: they are there already.
pub(crate) fn register(registry: &Registry) -> Result<(), prometheus::Error> {
    let start_time =
        Gauge::new("process_start_time_seconds", "Start of the process, Unix seconds")?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    start_time.set(since.as_secs_f64());
    registry.register(Box::new(Process {
        resident_bytes: IntGauge::new("process_resident_memory_bytes", "Memory in use")?,
        open_fds: IntGauge::new("process_open_fds", "Open file descriptors")?,
        cpu_seconds: Counter::new("process_cpu_seconds_total", "Processor time used, seconds")?,
        start_time,
    }))
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let Self { resident_bytes, open_fds, cpu_seconds, start_time } = self;
        let all: [&dyn Collector; 4] = [resident_bytes, open_fds, cpu_seconds, start_time];
        all.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Self { resident_bytes, open_fds, cpu_seconds, start_time } = self;
        let usage = Usage::now();
        let set = |gauge: &IntGauge, value: Option<u64>| {
            if let Some(value) = value {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        };
        set(resident_bytes, usage.resident_bytes);
        set(open_fds, usage.open_fds);
        if let Some(seconds) = usage.cpu_seconds {
            // Two who ask at once must not have it counted back.
            cpu_seconds.inc_by((seconds - cpu_seconds.get()).max(0.0));
        }
        let all: [&dyn Collector; 4] = [resident_bytes, open_fds, cpu_seconds, start_time];
        all.into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn what_this_process_uses_is_on_the_page() {
        let registry = Registry::new();
        register(&registry).unwrap();
        let page = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for name in [
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
        ] {
            let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            // Processor time is counted in hundredths of a second, and may be none yet.
            let is_shown = value.is_some_and(|value| value > 0.0 || name.contains("cpu"));
            assert!(is_shown, "{name}: {page}");
        }
        assert!(register(&registry).is_err(), "twice");
    }
}
