//! Metadata values, read from the file's bytes each time they are asked for: nothing is copied at
//! parse.

use super::cursor::{Cursor, quote};
use super::error::GgufError;

/// Arrays inside arrays; real files use one level.
const ARRAY_DEPTH_MAX: u32 = 4;
/// The type of an array's values and their count.
const ARRAY_HEAD_BYTES: usize = 12;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// A 32-bit float.
    F32,
    /// One byte, 0 or not.
    Bool,
    /// Text.
    String,
    /// Values of one type.
    Array,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// A 64-bit float.
    F64,
}

impl ValueType {
    fn from_id(id: u32) -> Option<Self> {
        const TYPES: [ValueType; 13] = [
            ValueType::U8,
            ValueType::I8,
            ValueType::U16,
            ValueType::I16,
            ValueType::U32,
            ValueType::I32,
            ValueType::F32,
            ValueType::Bool,
            ValueType::String,
            ValueType::Array,
            ValueType::U64,
            ValueType::I64,
            ValueType::F64,
        ];
        TYPES.get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of a scalar; `None` for text and arrays.
    fn scalar_bytes(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }

    /// The least bytes that a value takes in a file.
    fn bytes_min(self) -> u64 {
        match self {
            Self::String => 8,
            Self::Array => ARRAY_HEAD_BYTES as u64,
            scalar => scalar.scalar_bytes().unwrap_or(1),
        }
    }
}

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// A float of either width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text as it is in the file; mostly, but not surely, UTF-8.
    String(&'a [u8]),
    /// Values of one type.
    Array(Array<'a>),
}

impl Value<'_> {
    /// What an error calls this value.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => format!("the integer {value}"),
            Self::Signed(value) => format!("the integer {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Bool(value) => format!("the truth value {value}"),
            Self::String(bytes) => format!("the text {:?}", quote(&String::from_utf8_lossy(bytes))),
            Self::Array(array) => format!("an array of {} {:?}", array.len(), array.element()),
        }
    }
}

/// Values of one type, checked against the file when it was parsed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    length: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of the values.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (element, bytes, mut cursor) = (self.element, self.bytes, Cursor::new(self.bytes));
        // The bytes were walked once at parse, so no value is missing here.
        (0..self.length).map_while(move |_| {
            let start = cursor.at();
            skip(&mut cursor, element, "").ok()?;
            Some(decode(element, &bytes[start..cursor.at()]))
        })
    }

    /// The texts of an array of strings, without a copy; `None` for an array of something else.
    pub fn strings(&self) -> Option<Strings<'a>> {
        (self.element == ValueType::String)
            .then_some(Strings { length: self.length, bytes: self.bytes })
    }
}

/// An array of texts where the file has them.
#[derive(Clone, Copy, Debug)]
pub struct Strings<'a> {
    length: usize,
    bytes: &'a [u8],
}

impl<'a> Strings<'a> {
    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The texts in order, as bytes: mostly, but not surely, UTF-8.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut left = self.bytes;
        (0..self.length).map_while(move |_| {
            let (length, rest) = left.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let text = rest.get(..length)?;
            left = &rest[length..];
            Some(text)
        })
    }
}

/// The type that comes next in the file.
pub(super) fn read_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, GgufError> {
    let at = cursor.at() as u64;
    let found = cursor.u32(key, "value type")?;
    let unknown = || GgufError::UnknownType { subject: quote(key), what: "value type", found, at };
    ValueType::from_id(found).ok_or_else(unknown)
}

/// Moves past a value of type `kind`, checking all that is inside it. Errors: it leaves the file,
/// nests too deep, or names an unknown type.
pub(super) fn skip(cursor: &mut Cursor<'_>, kind: ValueType, key: &str) -> Result<(), GgufError> {
    skip_nested(cursor, kind, key, 0)
}

fn skip_nested(
    cursor: &mut Cursor<'_>,
    kind: ValueType,
    key: &str,
    depth: u32,
) -> Result<(), GgufError> {
    match kind {
        ValueType::String => cursor.string(u64::MAX, key, "text").map(drop),
        ValueType::Array => {
            let (element, length) = read_array_head(cursor, key, depth)?;
            if let Some(bytes) = element.scalar_bytes() {
                // The head's limit keeps this product inside the file's length.
                return cursor.take(length as u64 * bytes, key, "array").map(drop);
            }
            (0..length).try_for_each(|_| skip_nested(cursor, element, key, depth + 1))
        }
        scalar => {
            let bytes = scalar.scalar_bytes().unwrap_or_default();
            cursor.take(bytes, key, "value").map(drop)
        }
    }
}

fn read_array_head(
    cursor: &mut Cursor<'_>,
    key: &str,
    depth: u32,
) -> Result<(ValueType, usize), GgufError> {
    if depth >= ARRAY_DEPTH_MAX {
        return Err(GgufError::Limit {
            subject: quote(key),
            what: "nesting of arrays",
            found: u64::from(depth) + 1,
            limit: u64::from(ARRAY_DEPTH_MAX),
            at: cursor.at() as u64,
        });
    }
    let element = read_type(cursor, key)?;
    let limit = cursor.left() as u64 / element.bytes_min();
    let length = cursor.count(limit, key, "array length")?;
    Ok((element, length))
}

/// The value of type `kind` whose bytes these are, as [`skip`] found them.
pub(super) fn decode(kind: ValueType, bytes: &[u8]) -> Value<'_> {
    match kind {
        ValueType::String => Value::String(bytes.get(8..).unwrap_or_default()),
        ValueType::Array => Value::Array(decode_array(bytes)),
        ValueType::I8 => Value::Signed(i64::from(word(bytes) as i8)),
        ValueType::I16 => Value::Signed(i64::from(word(bytes) as i16)),
        ValueType::I32 => Value::Signed(i64::from(word(bytes) as i32)),
        ValueType::I64 => Value::Signed(word(bytes) as i64),
        ValueType::F32 => Value::Float(f64::from(f32::from_bits(word(bytes) as u32))),
        ValueType::F64 => Value::Float(f64::from_bits(word(bytes))),
        ValueType::Bool => Value::Bool(word(bytes) != 0),
        ValueType::U8 | ValueType::U16 | ValueType::U32 | ValueType::U64 => {
            Value::Unsigned(word(bytes))
        }
    }
}

fn decode_array(bytes: &[u8]) -> Array<'_> {
    let (head, values) = bytes.split_at(bytes.len().min(ARRAY_HEAD_BYTES));
    let (element, length) = head.split_at(head.len().min(4));
    let element = ValueType::from_id(word(element) as u32).unwrap_or(ValueType::U8);
    Array { element, length: word(length) as usize, bytes: values }
}

/// Up to eight bytes as a little-endian number.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}
