use proptest::prelude::*;
use unicode_segmentation::UnicodeSegmentation;

use super::{Detokenizer, HELD_BYTES_MAX};

/// Pushes `pieces` and returns the chunks: one per piece, and what `finish` gave.
fn stream(pieces: &[&[u8]]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new();
    let mut chunks: Vec<String> = pieces.iter().map(|piece| detokenizer.push(piece)).collect();
    chunks.push(detokenizer.finish());
    chunks
}

fn check(what: &str, pieces: &[&str], chunks: &[&str]) {
    let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
    assert_eq!(stream(&pieces), chunks, "{what}");
}

#[test]
fn the_last_cluster_waits_for_what_may_join_it() {
    check("nothing", &[""], &["", ""]);
    check("a letter waits for the next", &["a", "b"], &["", "a", "b"]);
    check("words", &["Hello", " world"], &["Hell", "o worl", "d"]);
    check(
        "jamo make one syllable",
        &["ᄒ", "ᅡ", "ᆫ", "글"],
        &["", "", "", "\u{1112}\u{1161}\u{11ab}", "글"],
    );
    check("a whole syllable takes a final", &["가", "\u{11a8}", "a"], &["", "", "가\u{11a8}", "a"]);
    check("a Thai vowel sign joins its consonant", &["ก", "ำ", "น"], &["", "", "กำ", "น"]);
    check("Arabic marks join their letter", &["ع", "\u{64b}", "ل"], &["", "", "ع\u{64b}", "ل"]);
    check("a flag is two halves", &["🇰", "🇷", "🇸", "🇦"], &["", "", "🇰🇷", "", "🇸🇦"]);
    check("a family is one", &["👩", "\u{200d}", "👧", "!"], &["", "", "", "👩\u{200d}👧", "!"]);
    check("a skin tone joins", &["👩", "🏽", "👩"], &["", "", "👩🏽", "👩"]);
    check("CR waits for LF", &["a\r", "\n", "b"], &["a", "", "\r\n", "b"]);
    check("Devanagari conjuncts", &["क", "\u{94d}", "ष", "ि"], &["", "", "", "", "क\u{94d}षि"]);
}

#[test]
fn bytes_that_are_not_text_become_replacement_characters() {
    let check = |what: &str, pieces: &[&[u8]], chunks: &[&str]| {
        assert_eq!(stream(pieces), chunks, "{what}");
    };
    check("half a character waits", &[b"\xed\x95", b"\x9c", b"a"], &["", "", "한", "a"]);
    check("and is replaced at the end", &[b"a\xed\x95"], &["", "a\u{fffd}"]);
    check("a stray continuation byte", &[b"a\x80b"], &["a\u{fffd}", "b"]);
    check("a character broken off", &[b"\xed\x95", b"a"], &["", "\u{fffd}", "a"]);
    check("a byte that never occurs", &[b"\xff", b"\xff"], &["", "\u{fffd}", "\u{fffd}"]);
}

#[test]
fn a_long_cluster_is_cut_and_not_forgotten() {
    let marks = "\u{308}".repeat(15);
    let woman = format!("👩{marks}");
    check(
        "a pictograph joins what was cut",
        &[&woman, "\u{200d}", "👧", "x"],
        &[&woman, "", "", "\u{200d}👧", "x"],
    );
    check(
        "a letter does not",
        &[&woman, "\u{200d}", "b", "x"],
        &[&woman, "", "\u{200d}", "b", "x"],
    );
    let spoilt = format!("{woman}\u{903}");
    check(
        "nor a pictograph after a mark with a width",
        &[&spoilt, "\u{200d}", "👧", "x"],
        &[&spoilt, "", "\u{200d}", "👧", "x"],
    );
    let consonant = format!("क\u{94d}{marks}");
    check("a conjunct goes on", &[&consonant, "ष", "x"], &[&consonant, "", "ष", "x"]);
    let jamo = "ᄒ".repeat(11);
    check("a run of jamo", &[&jamo, "ᅡ", "x"], &[&jamo, "", "ᅡ", "x"]);
}

#[test]
fn a_finished_stream_starts_anew() {
    let mut detokenizer = Detokenizer::new();
    detokenizer.push("🇰".as_bytes());
    assert_eq!(detokenizer.finish(), "🇰");
    assert_eq!(detokenizer.push("🇷a".as_bytes()), "🇷");
}

/// Text in which clusters of every kind are likely.
fn text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        proptest::sample::select(vec![
            'a',
            ' ',
            '\r',
            '\n',
            'ᄒ',
            'ᅡ',
            'ᆫ',
            '한',
            'ก',
            'ำ',
            'ั',
            'ع',
            '\u{64b}',
            '🇰',
            '🇷',
            '👩',
            '👧',
            '🏽',
            '\u{200d}',
            '\u{fe0f}',
            'क',
            '\u{94d}',
            'ष',
            'ि',
            '\u{308}',
            '\u{903}',
            '\u{600}',
            '❤',
            '\u{e0067}',
        ]),
        any::<char>(),
    ];
    proptest::collection::vec((character, 1..4_usize), 0..40)
        .prop_map(|runs| runs.iter().flat_map(|&(c, n)| std::iter::repeat_n(c, n)).collect())
}

/// Cuts `bytes` into pieces of the lengths in `cuts`, over and over.
fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for &cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

proptest! {
    #[test]
    fn no_byte_is_lost(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            text().prop_map(String::into_bytes),
        ],
        cuts in proptest::collection::vec(1..12_usize, 1..8),
    ) {
        let pieces = split(&bytes, &cuts);
        prop_assert_eq!(stream(&pieces).concat(), String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn chunks_end_between_clusters(
        text in text(),
        cuts in proptest::collection::vec(1..12_usize, 1..8),
    ) {
        let mut detokenizer = Detokenizer::new();
        let mut boundaries: Vec<usize> = text.grapheme_indices(true).map(|(at, _)| at).collect();
        boundaries.push(text.len());
        let (mut sent, mut taken) = (0, 0);
        for piece in split(text.as_bytes(), &cuts) {
            let out = detokenizer.push(piece).len();
            sent += out;
            taken += piece.len();
            prop_assert!(taken - sent <= HELD_BYTES_MAX, "{} bytes held", taken - sent);
            let whole = taken - detokenizer.partial.len();
            // A cut is forced when a cluster and the rest of a character are too long to wait.
            let cluster = boundaries.iter().rev().find(|&&at| at < whole).unwrap_or(&0);
            let forced = sent == whole && taken - cluster > HELD_BYTES_MAX;
            let ends_well = out == 0 || forced || boundaries.contains(&sent);
            prop_assert!(ends_well, "cut at {} of {:?}", sent, text);
        }
    }
}
