//! The snapshot that is held: only ever replaced by a later one, and how sure it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use naru_protocol::Snapshot;
use tokio::sync::watch;

/// What became of a snapshot that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is served by now.
    Taken,
    /// It is the one that is held.
    Same,
    /// It is older than the one that is held.
    Stale,
}

/// Takes later snapshots and refuses earlier ones.
#[derive(Clone)]
pub(crate) struct Held(watch::Sender<Arc<Snapshot>>);

impl Held {
    pub(crate) fn new(snapshots: watch::Sender<Arc<Snapshot>>) -> Self {
        Self(snapshots)
    }

    /// Serves by it from now on, if it is later than what is held.
    pub(crate) fn offer(&self, snapshot: Snapshot) -> Offered {
        let mut offered = Offered::Taken;
        self.0.send_if_modified(|held| {
            offered = match snapshot.version.cmp(&held.version) {
                std::cmp::Ordering::Less => Offered::Stale,
                std::cmp::Ordering::Equal => Offered::Same,
                std::cmp::Ordering::Greater => Offered::Taken,
            };
            if offered == Offered::Taken {
                *held = Arc::new(snapshot);
            }
            offered == Offered::Taken
        });
        offered
    }

    /// A receiver of what is held.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }
}

/// How long ago the held snapshot was known to be the present one.
#[derive(Clone, Default)]
pub(crate) struct Freshness(Arc<Mutex<Known>>);

#[derive(Clone, Copy, Default)]
enum Known {
    /// Whoever publishes is connected: what changes is heard at once.
    #[default]
    Present,
    /// It was the present one then, and may still be.
    Past(Instant, Duration),
}

impl Freshness {
    pub(crate) fn is_present(&self) {
        *self.locked() = Known::Present;
    }

    /// From now on nothing is heard any more; `already` so long before nothing was heard either.
    pub(crate) fn is_past(&self, already: Duration) {
        let mut known = self.locked();
        if matches!(*known, Known::Present) {
            *known = Known::Past(Instant::now(), already);
        }
    }

    pub(crate) fn age(&self) -> Duration {
        match *self.locked() {
            Known::Present => Duration::ZERO,
            Known::Past(since, already) => since.elapsed() + already,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
