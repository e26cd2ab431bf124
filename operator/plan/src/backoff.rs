//! How long a replica that failed waits before it is started again.

use serde::{Deserialize, Serialize};

use crate::units::Millis;

/// The wait after a first failure: short, because a worker that served and crashed is missed.
pub const BACKOFF_FIRST: Millis = Millis(250);
/// The longest wait, however often it failed.
pub const BACKOFF_MAX: Millis = Millis::from_seconds(60);
/// A replica that was Ready this long has proved itself: its failures are forgotten.
pub const STABLE_AFTER: Millis = Millis::from_seconds(60);

/// How often a replica has failed in a row.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Failures(pub u32);

impl Failures {
    /// The count after one more failure of a run that was Ready for `ready_for` (zero: never).
    pub fn and_another(self, ready_for: Millis) -> Self {
        if ready_for >= STABLE_AFTER { Self(1) } else { Self(self.0.saturating_add(1)) }
    }

    /// The wait before the next start: doubling from [`BACKOFF_FIRST`] to [`BACKOFF_MAX`].
    pub fn wait(self) -> Millis {
        let doublings = match self.0 {
            0 => return Millis(0),
            failures => failures - 1,
        };
        let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
        Millis(BACKOFF_FIRST.0.saturating_mul(factor)).min(BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(fact: &str, failures: u32, wait: u64) {
        assert_eq!(Failures(failures).wait(), Millis(wait), "{fact}");
    }

    #[test]
    fn waits() {
        check("what never failed does not wait", 0, 0);
        check("a first failure waits a quarter of a second", 1, 250);
        check("a second one twice that", 2, 500);
        check("an eighth 32 seconds", 8, 32_000);
        check("a ninth a minute", 9, 60_000);
        check("and no number of failures waits longer", u32::MAX, 60_000);
    }

    #[test]
    fn a_stable_run_is_forgiven() {
        assert_eq!(Failures(7).and_another(STABLE_AFTER), Failures(1));
        assert_eq!(Failures(7).and_another(Millis(STABLE_AFTER.0 - 1)), Failures(8));
        assert_eq!(Failures(u32::MAX).and_another(Millis(0)), Failures(u32::MAX));
    }

    proptest! {
        #[test]
        fn waits_grow_and_stay_bounded(failures in any::<u32>()) {
            let wait = Failures(failures).wait();
            prop_assert!(wait <= BACKOFF_MAX);
            prop_assert!(wait <= Failures(failures.saturating_add(1)).wait());
        }
    }
}
