//! Watts and joules as the profile models them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use naru_engine::StepCost;

use super::settings::Speed;

/// What the simulated devices draw now, and have drawn. A step counts with all its joules when it
/// begins; between steps the devices idle.
pub(crate) struct Meter {
    idle_watts: f64,
    speed: Speed,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    watts: f64,
    joules: f64,
    /// Until when idling is counted; None during a step.
    idle_since: Option<Instant>,
}

/// What a meter shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    pub(crate) watts: f64,
    /// Since the meter began.
    pub(crate) joules: f64,
}

impl Meter {
    /// A meter of devices that idle from `now` on.
    pub(crate) fn new(idle_watts: f64, speed: Speed, now: Instant) -> Self {
        let state = State { watts: idle_watts, joules: 0.0, idle_since: Some(now) };
        Self { idle_watts, speed, state: Mutex::new(state) }
    }

    /// A step begins.
    pub(crate) fn step(&self, cost: StepCost, now: Instant) {
        let mut state = self.count_idling(now);
        state.watts = cost.watts;
        state.joules += cost.watts * cost.seconds;
        state.idle_since = None;
    }

    /// No step follows the last one.
    pub(crate) fn rest(&self, now: Instant) {
        let mut state = self.count_idling(now);
        state.watts = self.idle_watts;
        state.idle_since = Some(now);
    }

    /// What it shows.
    pub(crate) fn read(&self, now: Instant) -> Reading {
        let state = self.count_idling(now);
        Reading { watts: state.watts, joules: state.joules }
    }

    fn count_idling(&self, now: Instant) -> MutexGuard<'_, State> {
        // A state is written whole or not at all: it is sound whatever became of the writer.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = state.idle_since {
            let idle = self.speed.modelled(now.saturating_duration_since(since));
            state.joules += self.idle_watts * idle;
            state.idle_since = Some(now.max(since));
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn joules_are_those_of_steps_and_of_idling_between_them() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let meter = Meter::new(100.0, Speed::Times(10.0), start);
        assert_eq!(meter.read(at(1)), Reading { watts: 100.0, joules: 1000.0 });
        meter.step(StepCost { seconds: 5.0, watts: 300.0 }, at(2));
        let during = Reading { watts: 300.0, joules: 2000.0 + 1500.0 };
        assert_eq!(meter.read(at(2)), during);
        assert_eq!(meter.read(at(7)), during, "a step's time is modelled, not measured");
        meter.step(StepCost { seconds: 1.0, watts: 400.0 }, at(7));
        meter.rest(at(8));
        assert_eq!(meter.read(at(8)), Reading { watts: 100.0, joules: 3900.0 });
        assert_eq!(meter.read(at(7)), Reading { watts: 100.0, joules: 3900.0 }, "never less");
        assert_eq!(meter.read(at(9)), Reading { watts: 100.0, joules: 4900.0 });
    }
}
