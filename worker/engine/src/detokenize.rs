//! Bytes of tokens in, text for people out: a stream's text leaves in whole grapheme clusters.
//!
//! A token may end inside a character, and a character may still be joined by what the next
//! token brings (a vowel sign, a conjoining jamo, the second half of a flag). So the last
//! extended grapheme cluster (UAX #29) waits until the next token shows that it is complete,
//! or the stream ends. It waits in at most [`HELD_BYTES_MAX`] bytes.

use unicode_segmentation::UnicodeSegmentation;

/// The most bytes a stream holds back: longer clusters are cut at a character boundary.
pub const HELD_BYTES_MAX: usize = 32;

/// The text of one stream. Everything pushed comes out once, in order: the pieces together equal
/// `String::from_utf8_lossy` of all the bytes, however they were split.
#[derive(Debug, Default)]
pub struct Detokenizer {
    /// The first bytes of a character whose other bytes have not come yet: at most three.
    partial: Vec<u8>,
    /// The last cluster so far.
    held: String,
    /// Stands for what a forced cut already sent of the cluster in `held`; else empty.
    sent: String,
}

impl Detokenizer {
    /// A stream that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes of the next token and returns the clusters that they complete, often none.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.decode(bytes);
        let mut out = String::new();
        if let Some(start) = self.last_cluster_start() {
            let kept = self.held.split_off(start);
            out = std::mem::replace(&mut self.held, kept);
            self.sent.clear();
        }
        if self.held.len() + self.partial.len() > HELD_BYTES_MAX {
            self.sent.push_str(&self.held);
            self.sent = cluster_state(&self.sent);
            out.push_str(&self.held);
            self.held.clear();
        }
        out
    }

    /// Returns what was held and leaves the stream as new. A character that never became whole
    /// comes out as U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut out = std::mem::take(&mut self.held);
        if !self.partial.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        self.partial.clear();
        self.sent.clear();
        out
    }

    /// Appends the characters that `bytes` complete to `held`; the unfinished rest goes to
    /// `partial`.
    fn decode(&mut self, bytes: &[u8]) {
        let joined;
        let mut rest = if self.partial.is_empty() {
            bytes
        } else {
            joined = [self.partial.as_slice(), bytes].concat();
            joined.as_slice()
        };
        self.partial.clear();
        while !rest.is_empty() {
            let (valid, bad) = match std::str::from_utf8(rest) {
                Ok(text) => return self.held.push_str(text),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            self.held.push_str(&String::from_utf8_lossy(&rest[..valid]));
            let Some(bad) = bad else {
                self.partial.extend_from_slice(&rest[valid..]);
                return;
            };
            self.held.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[valid + bad..];
        }
    }

    /// Where the last cluster begins in `held`; `None` if it began in what was already sent.
    fn last_cluster_start(&self) -> Option<usize> {
        if self.sent.is_empty() {
            return last_cluster(&self.held);
        }
        let seen = [self.sent.as_str(), self.held.as_str()].concat();
        last_cluster(&seen)?.checked_sub(self.sent.len())
    }
}

/// The byte at which the last cluster of `text` begins.
fn last_cluster(text: &str) -> Option<usize> {
    text.grapheme_indices(true).next_back().map(|(start, _)| start)
}

/// A short text that whatever follows joins or leaves exactly as it would `cluster`, so that a
/// cluster of any length is remembered in a few bytes.
///
/// What follows a cluster asks only for its last base character, and, when marks came after that,
/// for two things about them: may a pictograph still join (GB11), may a consonant (GB9c)? So the
/// answers of `cluster` are compared with those of five short runs of marks.
fn cluster_state(cluster: &str) -> String {
    const MARKS: [&str; 5] = ["\u{308}", "\u{200d}", "\u{94d}", "\u{94d}\u{200d}", "\u{903}"];
    let is_flag_half = |c: &char| ('\u{1f1e6}'..='\u{1f1ff}').contains(c);
    let flag: String = cluster.chars().rev().take(2).take_while(is_flag_half).collect();
    if !flag.is_empty() {
        return flag;
    }
    let base = cluster.char_indices().rev().find(|&(_, c)| !joins("a", &c.to_string()));
    let (base, marks) = match base {
        Some((at, c)) => cluster[at..].split_at(c.len_utf8()),
        None => ("", cluster),
    };
    if marks.is_empty() {
        return base.to_owned();
    }
    let states = MARKS.map(|marks| [base, marks].concat());
    let same = states.iter().find(|state| answers(state) == answers(cluster));
    same.unwrap_or(&states[0]).clone()
}

/// Whether a pictograph, or a consonant, joins `text`, at once or after one more mark.
fn answers(text: &str) -> [bool; 4] {
    ["\u{1f600}", "\u{200d}\u{1f600}", "\u{915}", "\u{94d}\u{915}"].map(|next| joins(text, next))
}

/// Whether the last character of `next` is in one cluster with what comes before it.
fn joins(text: &str, next: &str) -> bool {
    let whole = [text, next].concat();
    let last = next.chars().next_back().map_or(0, char::len_utf8);
    last_cluster(&whole).is_some_and(|start| start + last < whole.len())
}

#[cfg(test)]
mod tests;
