//! How often and how soon what failed is tried again.

use std::time::Duration;

use tokio::time::sleep;

use super::error::FetchError;

/// How often and how soon failed attempts are repeated.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// Attempts in a row that bring nothing.
    pub(crate) attempts: u32,
    /// Before the second attempt; doubled before each later one.
    pub(crate) first_pause: Duration,
}

const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 4, first_pause: Duration::from_millis(500) }
    }
}

/// The failed attempts at one thing.
pub(super) struct Retries<'a> {
    patience: &'a Patience,
    fruitless: u32,
}

impl<'a> Retries<'a> {
    /// None yet.
    pub(super) fn new(patience: &'a Patience) -> Self {
        Self { patience, fruitless: 0 }
    }

    /// Returns when the next attempt may be made. Errors: what failed will not pass, or patience
    /// is at its end.
    pub(super) async fn pause(&mut self, failure: Failure) -> Result<(), FetchError> {
        let Failure { error, progressed } = failure;
        self.fruitless = if progressed { 1 } else { self.fruitless + 1 };
        if !error.is_transient() || self.fruitless >= self.patience.attempts {
            return Err(error);
        }
        let doublings = (self.fruitless - 1).min(16);
        let pause = self.patience.first_pause.saturating_mul(1 << doublings).min(PAUSE_MAX);
        tracing::warn!(%error, milliseconds = pause.as_millis() as u64, "trying again");
        sleep(pause).await;
        Ok(())
    }
}

/// Makes an attempt until one succeeds, as long as patience lasts.
pub(super) async fn patiently<T, F>(
    patience: &Patience,
    attempt: impl Fn() -> F,
) -> Result<T, FetchError>
where
    F: Future<Output = Result<T, FetchError>>,
{
    let mut retries = Retries::new(patience);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => retries.pause(error.into()).await?,
        }
    }
}

/// A failed attempt, and whether it brought us further.
pub(super) struct Failure {
    pub(super) error: FetchError,
    pub(super) progressed: bool,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self { error, progressed: false }
    }
}
