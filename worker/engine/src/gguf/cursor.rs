//! A place in the file that only moves forward, and never past the end.

use super::error::GgufError;

/// Reads little-endian values one after the other.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes after this place: no count of things that take a byte each can be greater.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes. Errors: the file has fewer.
    pub(super) fn take(
        &mut self,
        count: u64,
        subject: &str,
        what: &'static str,
    ) -> Result<&'a [u8], GgufError> {
        let left = &self.bytes[self.at..];
        let taken = usize::try_from(count).ok().and_then(|count| left.get(..count));
        let Some(taken) = taken else {
            return Err(GgufError::Truncated {
                subject: quote(subject),
                what,
                at: self.at as u64,
                needed: count,
                file: self.bytes.len() as u64,
            });
        };
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn u32(&mut self, subject: &str, what: &'static str) -> Result<u32, GgufError> {
        let bytes = self.take(4, subject, what)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(super) fn u64(&mut self, subject: &str, what: &'static str) -> Result<u64, GgufError> {
        let mut word = [0; 8];
        word.copy_from_slice(self.take(8, subject, what)?);
        Ok(u64::from_le_bytes(word))
    }

    /// A number that counts something, at most `limit`.
    pub(super) fn count(
        &mut self,
        limit: u64,
        subject: &str,
        what: &'static str,
    ) -> Result<usize, GgufError> {
        let at = self.at as u64;
        let found = self.u64(subject, what)?;
        let fits = usize::try_from(found).ok().filter(|_| found <= limit);
        let subject = || quote(subject);
        fits.ok_or_else(|| GgufError::Limit { subject: subject(), what, found, limit, at })
    }

    /// A string with its 64-bit length before it. Errors: longer than `limit`, or than the file.
    pub(super) fn string(
        &mut self,
        limit: u64,
        subject: &str,
        what: &'static str,
    ) -> Result<&'a [u8], GgufError> {
        let length = self.count(limit, subject, what)?;
        self.take(length as u64, subject, what)
    }
}

/// A name out of a file, fit for one line of an error: escaped, and cut when it is long.
pub(super) fn quote(name: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let shown: String = name.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN_CHARS_MAX).is_some() { format!("{shown}…") } else { shown }
}
