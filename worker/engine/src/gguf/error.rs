//! Why a GGUF file, or one of its keys, could not be read.

use thiserror::Error;

/// A file that is not a GGUF file we can trust, or a key that is not what its reader needs. `at` is
/// a byte offset in the file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GgufError {
    /// The first four bytes are something else.
    #[error("not a GGUF file: it starts with {found:?}, not \"GGUF\"")]
    Magic {
        /// The bytes found, escaped.
        found: String,
    },
    /// A version that this reader does not know, or a byte order it does not read.
    #[error("GGUF version {version} is not supported; versions 2 and 3, little-endian, are")]
    Version {
        /// The version that the header states.
        version: u32,
    },
    /// The file ends inside something.
    #[error(
        "{subject}: the file ends inside its {what}: {needed} bytes at offset {at}, file has {file}"
    )]
    Truncated {
        /// The key, tensor or part of the file being read.
        subject: String,
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        at: u64,
        /// How many bytes it needs.
        needed: u64,
        /// How many bytes the file has.
        file: u64,
    },
    /// A count or length over the limit of this reader.
    #[error("{subject}: {what} is {found} at offset {at}; at most {limit} is read")]
    Limit {
        /// The key, tensor or part of the file being read.
        subject: String,
        /// What was counted.
        what: &'static str,
        /// The number in the file.
        found: u64,
        /// The greatest that is read.
        limit: u64,
        /// Where the number is.
        at: u64,
    },
    /// A number that stands for no value or tensor type.
    #[error("{subject}: {found} at offset {at} is no known {what}")]
    UnknownType {
        /// The key or tensor being read.
        subject: String,
        /// Which kind of type.
        what: &'static str,
        /// The number in the file.
        found: u32,
        /// Where the number is.
        at: u64,
    },
    /// Text that is not UTF-8.
    #[error("{subject}: {what} at offset {at} is not UTF-8")]
    Utf8 {
        /// The key, tensor or part of the file being read.
        subject: String,
        /// What was being read.
        what: &'static str,
        /// Where it is.
        at: u64,
    },
    /// Two keys or two tensors of one name.
    #[error("{what} {name:?} appears twice")]
    Duplicate {
        /// `key` or `tensor`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// `general.alignment` is no power of two of a sensible size.
    #[error("general.alignment is {found}; a power of two up to {limit} is needed")]
    Alignment {
        /// The value found.
        found: u64,
        /// The greatest that is read.
        limit: u64,
    },
    /// A tensor whose shape cannot be.
    #[error("tensor {tensor}: shape {shape:?} of {format} cannot be: {reason}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its dimensions, outermost first.
        shape: Vec<u64>,
        /// Its format.
        format: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// A tensor that starts at an offset off the alignment.
    #[error("tensor {tensor}: data offset {offset} is not a multiple of the alignment {alignment}")]
    Unaligned {
        /// The tensor.
        tensor: String,
        /// Its offset, relative to the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A key that the reader of the model needs.
    #[error("metadata key {key} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key with a value of another type than its reader needs.
    #[error("metadata key {key} holds {found}, where {expected} is needed")]
    WrongType {
        /// The key.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}
