//! Makes steps take as long as they would.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use naru_engine::StepCost;

use super::meter::Meter;
use super::settings::Speed;

/// So far a row of steps may be behind and still catch up: what a busy machine takes away, not a
/// process that was stopped.
const LAG_MAX: Duration = Duration::from_millis(100);

/// Waits for steps to end.
pub(crate) struct Pace {
    speed: Speed,
    meter: Arc<Meter>,
    /// When the last step of an unbroken row ends.
    due: Option<Instant>,
}

impl Pace {
    /// Nothing is running yet.
    pub(crate) fn new(speed: Speed, meter: Arc<Meter>) -> Self {
        Self { speed, meter, due: None }
    }

    /// Returns when a step that was begun at `began` ends.
    pub(crate) fn wait(&mut self, cost: StepCost, began: Instant) {
        self.meter.step(cost, began);
        let due = end_of_step(self.due, began, self.speed.real(cost.seconds));
        self.due = Some(due);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }

    /// Nothing is running any more.
    pub(crate) fn rest(&mut self) {
        self.due = None;
        self.meter.rest(Instant::now());
    }
}

/// A step that follows another begins when that one ended, so that waiting a little too long each
/// time adds nothing up.
fn end_of_step(last: Option<Instant>, began: Instant, takes: Duration) -> Instant {
    let follows = |last: &Instant| began.saturating_duration_since(*last) <= LAG_MAX;
    last.filter(follows).unwrap_or(began) + takes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_when_they_should() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let takes = Duration::from_millis(10);
        assert_eq!(end_of_step(None, at(5), takes), at(15));
        assert_eq!(end_of_step(Some(at(15)), at(16), takes), at(25), "one late by 1 ms");
        assert_eq!(end_of_step(Some(at(15)), at(90), takes), at(25), "a machine under load");
        assert_eq!(end_of_step(Some(at(15)), at(900), takes), at(910), "a stopped process");
    }
}
