//! Time and chance, which the engine must not know.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, UTC.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// A number nobody can guess in advance from earlier ones; good for ids and seeds, not for keys.
pub(crate) fn random_u64() -> u64 {
    // Each `RandomState` has its own keys, from the system's randomness.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos()),
    );
    hasher.finish()
}
