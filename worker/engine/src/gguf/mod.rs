//! GGUF: the one-file form of a model, read over bytes that somebody else holds.
//!
//! ```text
//! "GGUF" version  tensor count  key count │ keys and values │ tensor infos │ padding │ tensor data
//! ```
//!
//! Everything that a later reader relies on is checked once, in [`GgufFile::parse`]: each length
//! and offset against the file, each type against the tables, no name twice. Values stay where they
//! are: a vocabulary of 150,000 words is walked, not copied. Source: the GGUF specification,
//! versions 2 and 3 (`docs/gguf.md` of ggml).

mod cursor;
mod error;
mod metadata;
mod tensor_type;
#[cfg(test)]
mod tests;
mod value;
#[cfg(test)]
pub(crate) mod write;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

pub use error::GgufError;
pub use metadata::Metadata;
pub use tensor_type::TensorType;
pub use value::{Array, Strings, Value, ValueType};

use cursor::{Cursor, quote};
use metadata::Entry;

const VERSIONS: [u32; 2] = [2, 3];
/// Keys of one file; real ones have some tens.
const KEYS_MAX: u64 = 65_536;
/// Tensors of one file; a 1,000-layer model of many experts stays below.
const TENSORS_MAX: u64 = 1 << 20;
/// The specification's limit.
const KEY_BYTES_MAX: u64 = 65_535;
/// The specification says 64; later tools write longer ones.
const TENSOR_NAME_BYTES_MAX: u64 = 255;
/// The most dimensions of a ggml tensor.
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: usize = 32;
const ALIGNMENT_MAX: usize = 1 << 16;
/// The least bytes of a key with its value, and of a tensor info: they bound what a count may
/// allocate.
const KEY_ENTRY_BYTES_MIN: u64 = 13;
const TENSOR_INFO_BYTES_MIN: u64 = 24;

/// A tensor of a GGUF file: what it is and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the file.
    pub name: String,
    /// Its format.
    pub format: TensorType,
    /// Its dimensions, outermost first: `[rows, columns]` for a matrix, the reverse of the file's
    /// order.
    pub shape: Vec<usize>,
    /// Its bytes in the file; inside it, whole blocks, aligned.
    pub bytes: Range<usize>,
}

/// A parsed GGUF file over the bytes it was parsed from.
#[derive(Clone, Debug)]
pub struct GgufFile<'a> {
    bytes: &'a [u8],
    index: Arc<GgufIndex>,
}

/// What [`GgufFile::parse`] found, apart from the bytes, so that the owner of a mapping can keep
/// it.
#[derive(Debug)]
pub(crate) struct GgufIndex {
    version: u32,
    alignment: usize,
    entries: Vec<Entry>,
    tensors: Vec<TensorInfo>,
}

impl<'a> GgufFile<'a> {
    /// Reads the header, keys and tensor infos of `bytes`, a whole file. Errors name the key or
    /// tensor and the offset. Nothing is allocated that the file's own length does not justify.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let version = read_version(&mut cursor)?;
        let limit = TENSORS_MAX.min(bytes.len() as u64 / TENSOR_INFO_BYTES_MIN);
        let tensor_count = cursor.count(limit, "header", "tensor count")?;
        let limit = KEYS_MAX.min(bytes.len() as u64 / KEY_ENTRY_BYTES_MIN);
        let key_count = cursor.count(limit, "header", "key count")?;
        let entries = read_entries(&mut cursor, key_count)?;
        let alignment = read_alignment(&Metadata { entries: &entries, bytes })?;
        let tensors = read_tensors(&mut cursor, tensor_count, alignment, bytes.len())?;
        Ok(Self { bytes, index: Arc::new(GgufIndex { version, alignment, entries, tensors }) })
    }

    /// The file again, over the same bytes it was parsed from.
    pub(crate) fn from_index(bytes: &'a [u8], index: Arc<GgufIndex>) -> Self {
        Self { bytes, index }
    }

    /// What was found, to be kept beside the bytes.
    pub(crate) fn into_index(self) -> Arc<GgufIndex> {
        self.index
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.index.version
    }

    /// What tensor data is aligned to, in bytes.
    pub fn alignment(&self) -> usize {
        self.index.alignment
    }

    /// The keys and values.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata { entries: &self.index.entries, bytes: self.bytes }
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.index.tensors
    }

    /// The blocks of `tensor`, which must be one of this file's.
    pub fn data(&self, tensor: &TensorInfo) -> &'a [u8] {
        &self.bytes[tensor.bytes.clone()]
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let magic = cursor.take(4, "header", "magic")?;
    if magic != b"GGUF" {
        return Err(GgufError::Magic { found: magic.escape_ascii().to_string() });
    }
    let version = cursor.u32("header", "version")?;
    if VERSIONS.contains(&version) { Ok(version) } else { Err(GgufError::Version { version }) }
}

fn read_entries(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<Entry>, GgufError> {
    // Grown as keys are really there: a count alone allocates nothing.
    let mut entries = Vec::new();
    for index in 0..count {
        let at = cursor.at() as u64;
        let subject = || format!("key {index}");
        let key = match cursor.string(KEY_BYTES_MAX, "", "key") {
            Ok(key) => key,
            Err(error) => return Err(name_subject(error, subject())),
        };
        let key = std::str::from_utf8(key).map_err(|_| GgufError::Utf8 {
            subject: subject(),
            what: "key",
            at,
        })?;
        let kind = value::read_type(cursor, key)?;
        let start = cursor.at();
        value::skip(cursor, kind, key)?;
        entries.push(Entry { key: key.into(), kind, start, end: cursor.at() });
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    match entries.windows(2).find(|pair| pair[0].key == pair[1].key) {
        Some(pair) => Err(GgufError::Duplicate { what: "key", name: quote(&pair[0].key) }),
        None => Ok(entries),
    }
}

/// Fills in the subject of an error that was raised before the name was known.
fn name_subject(error: GgufError, name: String) -> GgufError {
    match error {
        GgufError::Truncated { what, at, needed, file, .. } => {
            GgufError::Truncated { subject: name, what, at, needed, file }
        }
        GgufError::Limit { what, found, limit, at, .. } => {
            GgufError::Limit { subject: name, what, found, limit, at }
        }
        other => other,
    }
}

fn read_alignment(metadata: &Metadata<'_>) -> Result<usize, GgufError> {
    let found = metadata.unsigned("general.alignment")?.unwrap_or(ALIGNMENT_DEFAULT);
    if found.is_power_of_two() && found <= ALIGNMENT_MAX {
        return Ok(found);
    }
    Err(GgufError::Alignment { found: found as u64, limit: ALIGNMENT_MAX as u64 })
}

fn read_tensors(
    cursor: &mut Cursor<'_>,
    count: usize,
    alignment: usize,
    file: usize,
) -> Result<Vec<TensorInfo>, GgufError> {
    let mut tensors = Vec::new();
    for index in 0..count {
        let tensor = read_tensor(cursor, index)?;
        let (offset, alignment) = (tensor.offset, alignment as u64);
        if !offset.is_multiple_of(alignment) {
            let tensor = quote(&tensor.info.name);
            return Err(GgufError::Unaligned { tensor, offset, alignment });
        }
        tensors.push(tensor);
    }
    let data_start = cursor.at().next_multiple_of(alignment);
    let mut names = HashSet::new();
    for tensor in &mut tensors {
        place(tensor, data_start, file)?;
    }
    for tensor in &tensors {
        if !names.insert(tensor.info.name.as_str()) {
            let name = quote(&tensor.info.name);
            return Err(GgufError::Duplicate { what: "tensor", name });
        }
    }
    Ok(tensors.into_iter().map(|tensor| tensor.info).collect())
}

/// A tensor whose place in the file is not known before all infos are read.
struct UnplacedTensor {
    info: TensorInfo,
    offset: u64,
    length: u64,
}

fn read_tensor(cursor: &mut Cursor<'_>, index: usize) -> Result<UnplacedTensor, GgufError> {
    let unnamed = || format!("tensor {index}");
    let at = cursor.at() as u64;
    let name = cursor
        .string(TENSOR_NAME_BYTES_MAX, "", "name")
        .map_err(|error| name_subject(error, unnamed()))?;
    let name = std::str::from_utf8(name).map_err(|_| GgufError::Utf8 {
        subject: unnamed(),
        what: "name",
        at,
    })?;
    let at = cursor.at() as u64;
    let dimensions = cursor.u32(name, "dimension count")?;
    if dimensions > DIMENSIONS_MAX {
        let (found, limit) = (u64::from(dimensions), u64::from(DIMENSIONS_MAX));
        let (subject, what) = (quote(name), "dimension count");
        return Err(GgufError::Limit { subject, what, found, limit, at });
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        shape.insert(0, cursor.u64(name, "dimensions")?);
    }
    let at = cursor.at() as u64;
    let id = cursor.u32(name, "tensor type")?;
    let format = TensorType::from_id(id).ok_or_else(|| GgufError::UnknownType {
        subject: quote(name),
        what: "tensor type",
        found: id,
        at,
    })?;
    let offset = cursor.u64(name, "data offset")?;
    let wrong = |reason| {
        let (tensor, format) = (quote(name), format.name());
        GgufError::Shape { tensor, shape: shape.clone(), format, reason }
    };
    let length = byte_length(&shape, format).map_err(wrong)?;
    let shape = shape.iter().map(|&size| size as usize).collect();
    // The range is set when the start of the data is known.
    let info = TensorInfo { name: name.to_owned(), format, shape, bytes: 0..0 };
    Ok(UnplacedTensor { info, offset, length })
}

/// Bytes of a tensor, or why there cannot be one.
fn byte_length(shape: &[u64], format: TensorType) -> Result<u64, &'static str> {
    const TOO_BIG: &str = "its size overflows";
    if shape.contains(&0) {
        return Err("a dimension is zero");
    }
    if !shape.last().unwrap_or(&1).is_multiple_of(format.block_elements()) {
        return Err("a row is not whole blocks");
    }
    let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let blocks = elements.ok_or(TOO_BIG)? / format.block_elements();
    let bytes = blocks.checked_mul(format.block_bytes()).ok_or(TOO_BIG)?;
    // A dimension is at most the product, so with this each fits in memory too.
    isize::try_from(bytes).map(|_| bytes).map_err(|_| TOO_BIG)
}

fn place(tensor: &mut UnplacedTensor, data_start: usize, file: usize) -> Result<(), GgufError> {
    let (offset, length) = (tensor.offset, tensor.length);
    let start = offset.checked_add(data_start as u64);
    let end = start.and_then(|start| start.checked_add(length));
    match (start, end) {
        (Some(start), Some(end)) if end <= file as u64 => {
            tensor.info.bytes = start as usize..end as usize;
            Ok(())
        }
        _ => Err(GgufError::Truncated {
            subject: format!("tensor {}", quote(&tensor.info.name)),
            what: "data",
            at: offset.saturating_add(data_start as u64),
            needed: length,
            file: file as u64,
        }),
    }
}
