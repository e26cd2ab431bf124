//! Why a command ended without having been asked to.

/// What the exit code tells apart.
pub(crate) enum Failure {
    /// The user has to change something.
    BadUsage(anyhow::Error),
    /// The machine would not.
    Failed(anyhow::Error),
}

impl Failure {
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::BadUsage(error.into())
    }
}
