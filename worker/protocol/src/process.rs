//! What a process uses of its machine, by what Linux says of it.

use std::fs;

/// Ticks of a second in `/proc/PID/stat`: what Linux shows to programs on every architecture that
/// naru is built for, whatever it counts by itself.
const TICKS: f64 = 100.0;

/// What this process uses now; nothing of what the machine does not say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Memory that is resident.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// Seconds of processors, in the program and in the kernel for it, since its start.
    pub cpu_seconds: Option<f64>,
}

impl Usage {
    /// Looks at it.
    #[must_use]
    pub fn now() -> Self {
        let read = |path| fs::read_to_string(path).ok();
        Self {
            resident_bytes: read("/proc/self/status").and_then(|text| resident_bytes(&text)),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64),
            cpu_seconds: read("/proc/self/stat").and_then(|text| cpu_seconds(&text)),
        }
    }
}

/// Of `/proc/PID/status`, which gives it in KiB.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Of `/proc/PID/stat`: the program's own and the kernel's for it, fields 14 and 15.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the name of the program, in which anything may stand; a bracket ends it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    let (own, kernels) = (ticks.next()??, ticks.next()??);
    Some((own + kernels) as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let begun = std::time::Instant::now();
        // Until a tick of processor time has gone by.
        while Usage::now().cpu_seconds.unwrap() == 0.0 {
            assert!(begun.elapsed().as_secs() < 60, "no processor time was counted");
        }
        let usage = Usage::now();
        assert!(usage.resident_bytes.unwrap() > 100_000, "{usage:?}");
        assert!(usage.open_fds.unwrap() >= 3, "{usage:?}");
        assert!(usage.cpu_seconds.unwrap() < 3600.0, "{usage:?}");
    }

    #[test]
    fn the_name_of_a_program_may_hold_anything() {
        let stat = "7 (a) b (c) R 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a) R 1"), None);
        assert_eq!(resident_bytes("Name:\tnaru\nVmRSS:\t    2 kB\n"), Some(2048));
    }
}
