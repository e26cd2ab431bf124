//! The one error of this crate: numbers that do not fit together.

use thiserror::Error;

/// Slices or sizes handed to an op that do not fit together; nothing was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShapeError {
    /// A slice or size must have exactly one value.
    #[error("{op}: {what} must be {expected}, not {found}")]
    Length {
        /// The op that was asked for.
        op: &'static str,
        /// What was measured.
        what: &'static str,
        /// The size that fits.
        expected: usize,
        /// The size that came.
        found: usize,
    },
    /// A size must be a multiple of a block.
    #[error("{op}: {what} must be a multiple of {of}, not {found}")]
    Multiple {
        /// The op that was asked for.
        op: &'static str,
        /// What was measured.
        what: &'static str,
        /// The block.
        of: usize,
        /// The size that came.
        found: usize,
    },
    /// A size or index is over its limit.
    #[error("{op}: {what} must be at most {limit}, not {found}")]
    Limit {
        /// The op that was asked for.
        op: &'static str,
        /// What was measured.
        what: &'static str,
        /// The greatest that fits.
        limit: usize,
        /// The size that came.
        found: usize,
    },
}

/// `Ok` when `found` is `expected`.
pub(crate) fn exactly(
    op: &'static str,
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), ShapeError> {
    if found == expected { Ok(()) } else { Err(ShapeError::Length { op, what, expected, found }) }
}

/// `Ok` when `found` is a multiple of `of`.
pub(crate) fn multiple(
    op: &'static str,
    what: &'static str,
    of: usize,
    found: usize,
) -> Result<(), ShapeError> {
    let fits = of != 0 && found.is_multiple_of(of);
    if fits { Ok(()) } else { Err(ShapeError::Multiple { op, what, of, found }) }
}

/// `Ok` when `found` is not over `limit`.
pub(crate) fn at_most(
    op: &'static str,
    what: &'static str,
    limit: usize,
    found: usize,
) -> Result<(), ShapeError> {
    if found <= limit { Ok(()) } else { Err(ShapeError::Limit { op, what, limit, found }) }
}

/// `found` in the type that kernels take sizes in.
pub(crate) fn to_u32(
    op: &'static str,
    what: &'static str,
    found: usize,
) -> Result<u32, ShapeError> {
    let limit = u32::MAX as usize;
    u32::try_from(found).map_err(|_| ShapeError::Limit { op, what, limit, found })
}

/// `found` as blocks of a CUDA grid in y or z.
pub(crate) fn grid_rows(
    op: &'static str,
    what: &'static str,
    found: usize,
) -> Result<u32, ShapeError> {
    at_most(op, what, 65_535, found)?;
    to_u32(op, what, found)
}
