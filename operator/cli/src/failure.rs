//! Why a command ended without having been asked to.

use std::io;

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

    /// The address that `flag` names cannot be listened on.
    pub(crate) fn listening(flag: &str, error: impl Into<anyhow::Error>) -> Self {
        let error = error.into().context(flag.to_owned());
        let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        let is_taken = causes.any(|cause| cause.kind() == io::ErrorKind::AddrInUse);
        let next = format!("{flag} with another port, or `ss -ltnp` for who has this one");
        Self::BadUsage(if is_taken { then_try(error, &next) } else { error })
    }
}

/// An error that ends with the command to try next.
pub(crate) fn then_try(error: anyhow::Error, command: &str) -> anyhow::Error {
    anyhow::anyhow!("{error:#}; try: {command}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fact: &str, kind: io::ErrorKind, expected: &str) {
        let words = anyhow::Error::new(io::Error::from(kind)).context("listening on 127.0.0.1:1");
        let (Failure::BadUsage(error) | Failure::Failed(error)) =
            Failure::listening("--listen", words);
        assert_eq!(format!("{error:#}"), expected, "{fact}");
    }

    #[test]
    fn errors_end_with_what_to_try() {
        check(
            "somebody has it",
            io::ErrorKind::AddrInUse,
            "--listen: listening on 127.0.0.1:1: address in use; \
             try: --listen with another port, or `ss -ltnp` for who has this one",
        );
        check(
            "it may not be had",
            io::ErrorKind::PermissionDenied,
            "--listen: listening on 127.0.0.1:1: permission denied",
        );
    }
}
