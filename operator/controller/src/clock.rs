//! The clock of this machine.

use std::time::{SystemTime, UNIX_EPOCH};

use naru_plan::Moment;

/// The present by the clocks of people, since 1970: a cluster's times and schedules are in it.
pub fn wall_clock() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
