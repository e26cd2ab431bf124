//! Stop strings over a stream of bytes.
//!
//! Matching is on bytes, before text is made of them: UTF-8 is self-synchronising, so a match is
//! always whole characters, and a stop is seen with the very token that completes it. A byte is
//! released as soon as no stop string can begin at it.

use std::sync::Arc;

use crate::request::StopRules;

/// The stop strings of a request, prepared once for all its choices.
#[derive(Debug, Default)]
pub(crate) struct StopStrings {
    needles: Vec<Needle>,
    /// Whether the stop string itself is released.
    included: bool,
}

/// A string with its failure function (Knuth, Morris, Pratt 1977): each byte costs constant time,
/// amortised, however the string repeats itself.
#[derive(Debug)]
struct Needle {
    text: String,
    /// fallback[i]: length of the longest proper border of the first i + 1 bytes.
    fallback: Vec<u32>,
}

/// Where one stream of bytes stands with each stop string.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    strings: Arc<StopStrings>,
    /// For each needle, how many of its first bytes the stream ends with; never all of them.
    matched: Vec<usize>,
    /// Received and not released: a beginning of some needle.
    held: Vec<u8>,
}

/// What a push lets through.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// Bytes that are part of the answer.
    pub(crate) bytes: Vec<u8>,
    /// The stop string that ended the stream.
    pub(crate) stop: Option<String>,
}

impl StopStrings {
    pub(crate) fn new(rules: &StopRules) -> Self {
        let strings = rules.strings.iter().filter(|text| !text.is_empty());
        Self {
            needles: strings.map(|text| Needle::new(text)).collect(),
            included: rules.include_stop_str_in_output,
        }
    }
}

impl Needle {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len()];
        let mut border = 0;
        for index in 1..bytes.len() {
            while border > 0 && bytes[border] != bytes[index] {
                border = fallback[border - 1] as usize;
            }
            border += usize::from(bytes[border] == bytes[index]);
            fallback[index] = border as u32;
        }
        Self { text: text.to_owned(), fallback }
    }

    fn len(&self) -> usize {
        self.text.len()
    }

    /// How much of the needle may begin again at the end of a whole match.
    fn border(&self) -> usize {
        self.fallback.last().map_or(0, |&border| border as usize)
    }

    /// How much of the needle a stream ends with after `byte`, having ended with `matched` of it,
    /// but not all.
    fn advance(&self, matched: usize, byte: u8) -> usize {
        let bytes = self.text.as_bytes();
        let mut matched = matched;
        while matched > 0 && bytes[matched] != byte {
            matched = self.fallback[matched - 1] as usize;
        }
        matched + usize::from(bytes[matched] == byte)
    }
}

impl StopMatcher {
    pub(crate) fn new(strings: Arc<StopStrings>) -> Self {
        let matched = vec![0; strings.needles.len()];
        Self { strings, matched, held: Vec::new() }
    }

    /// The stream goes on by `bytes`. Unless `armed`, stop strings that they complete are let pass.
    /// Of several strings completed by the same byte the longest counts.
    pub(crate) fn push(&mut self, bytes: &[u8], armed: bool) -> Released {
        for &byte in bytes {
            self.held.push(byte);
            let mut longest: Option<&Needle> = None;
            for (needle, matched) in self.strings.needles.iter().zip(&mut self.matched) {
                *matched = needle.advance(*matched, byte);
                if *matched < needle.len() {
                    continue;
                }
                *matched = needle.border();
                if armed && longest.is_none_or(|other| needle.len() > other.len()) {
                    longest = Some(needle);
                }
            }
            if let Some(needle) = longest {
                let cut = if self.strings.included { 0 } else { needle.len() };
                let stop = Some(needle.text.clone());
                self.held.truncate(self.held.len() - cut);
                return Released { bytes: self.finish(), stop };
            }
        }
        let kept = self.matched.iter().copied().max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Released { bytes: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// The stream is over: returns what was held back.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.matched.fill(0);
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(strings: &[&str], included: bool) -> StopMatcher {
        let strings = strings.iter().map(|text| text.to_string()).collect();
        let include_stop_str_in_output = included;
        let rules = StopRules { strings, token_ids: Vec::new(), include_stop_str_in_output };
        StopMatcher::new(Arc::new(StopStrings::new(&rules)))
    }

    fn check(why: &str, strings: &[&str], pieces: &[&str], released: &[&str], stop: Option<&str>) {
        let mut matcher = matcher(strings, false);
        let mut seen = Vec::new();
        let mut stopped = None;
        for piece in pieces {
            let step = matcher.push(piece.as_bytes(), true);
            seen.push(String::from_utf8(step.bytes).unwrap());
            stopped = step.stop;
            if stopped.is_some() {
                break;
            }
        }
        assert_eq!((seen, stopped.as_deref()), (to_strings(released), stop), "{why}");
    }

    fn to_strings(pieces: &[&str]) -> Vec<String> {
        pieces.iter().map(|piece| piece.to_string()).collect()
    }

    #[test]
    fn releases_what_no_stop_string_can_claim() {
        check("nothing to stop at", &[], &["a", "b"], &["a", "b"], None);
        check("an empty string never stops", &[""], &["a"], &["a"], None);
        check("a stop in one piece", &["STOP"], &["onSTOPoff"], &["on"], Some("STOP"));
        check("a stop across pieces", &["STOP"], &["xS", "TO", "Py"], &["x", "", ""], Some("STOP"));
        check("a false start is released", &["STOP"], &["xST", "xx"], &["x", "STxx"], None);
        check("a start within a false start", &["aab"], &["aa", "ab"], &["", "a"], Some("aab"));
        check("the first to complete wins", &["lo w", "ell"], &["hello w"], &["h"], Some("ell"));
        check("of two at once the longer", &["b", "ab"], &["xab"], &["x"], Some("ab"));
        check("whole characters", &["니"], &["아", "니요"], &["아", ""], Some("니"));
        check("the longest possible start is held", &["abc", "b"], &["a"], &[""], None);
    }

    #[test]
    fn the_stop_string_is_kept_where_asked() {
        let released = matcher(&["ab"], true).push(b"xaby", true);
        assert_eq!(released, Released { bytes: b"xab".to_vec(), stop: Some("ab".into()) });
    }

    #[test]
    fn a_stop_string_passes_until_armed() {
        let mut matcher = matcher(&["aa"], false);
        assert_eq!(matcher.push(b"aaa", false).stop, None);
        let released = matcher.push(b"a", true);
        assert_eq!(released.stop.as_deref(), Some("aa"), "its first half may be from before");
    }

    proptest! {
        #[test]
        fn pieces_and_self_similarity_do_not_matter(
            text in "[ab]{0,40}",
            strings in prop::collection::vec("[ab]{1,6}", 0..4),
            cuts in prop::collection::vec(1..5_usize, 40),
            unarmed in 0..6_usize,
        ) {
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            // Plain: the shortest prefix that ends with a stop string, less the longest such.
            let armed_from: usize = cuts.iter().take(unarmed).sum();
            let end = (armed_from + 1..=text.len())
                .find(|&end| strings.iter().any(|stop| text[..end].ends_with(stop)));
            let expected = end.map_or(text.as_str(), |end| {
                let ending = strings.iter().filter(|stop| text[..end].ends_with(**stop));
                let cut = ending.map(|stop| stop.len()).max().unwrap_or(0);
                &text[..end - cut]
            });
            let mut matcher = matcher(&strings, false);
            let mut released = Vec::new();
            let mut stopped = false;
            let mut rest = text.as_bytes();
            for (index, cut) in cuts.into_iter().enumerate() {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                rest = later;
                let step = matcher.push(piece, index >= unarmed);
                released.extend(step.bytes);
                stopped = step.stop.is_some();
                if stopped {
                    break;
                }
            }
            if !stopped {
                released.extend(matcher.finish());
            }
            prop_assert_eq!(String::from_utf8(released).unwrap(), expected);
            prop_assert_eq!(stopped, end.is_some());
        }
    }
}
