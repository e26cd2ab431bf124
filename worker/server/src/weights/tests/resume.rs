//! Large files: by several connections, killed in the middle, resumed.

use std::ops::Range;
use std::time::Duration;

use super::*;
use crate::weights::journal;
use crate::weights::spans::Spans;

const LARGE_BYTES: usize = 40_000_000;

/// Bytes by chance, always the same.
fn large() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..LARGE_BYTES).map(|_| next()).collect()
}

/// The ranges that were asked for, as far as there are bytes.
fn ranges(bench: &Bench) -> Vec<Range<u64>> {
    let ranges = bench.seen().into_iter().filter_map(|seen| seen.range);
    ranges
        .map(|range| {
            let (start, last) = range["bytes=".len()..].split_once('-').expect("a range");
            let last: u64 = last.parse().expect("a number");
            start.parse().expect("a number")..(last + 1).min(LARGE_BYTES as u64)
        })
        .collect()
}

fn map(bench: &Bench) -> Option<Spans> {
    let http = bench.cache.path().join("http");
    let folder = http.read_dir().ok()?.next()?.expect("an entry").path();
    journal::look(&folder.join(".m.gguf.part.map")).map(|(_, spans)| spans)
}

/// Returns once so much is noted.
async fn has_come(bench: &Bench, bytes: u64) {
    while map(bench).is_none_or(|spans| spans.bytes() < bytes) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_large_file_comes_in_pieces_each_once() {
    let bench = Bench::start().await;
    let body = large();
    let digest = hex(&Sha256::digest(&body));
    bench.set(|script| script.body = body.clone());
    let fetcher = bench.fetcher(|sources| sources.sha256 = Some(digest));
    let path = fetcher.obtain(&bench.url()).await.expect("fetched");
    assert!(content(&path) == body, "the same bytes");
    let mut asked = ranges(&bench);
    asked.sort_by_key(|range| range.start);
    assert!(asked.len() >= 8, "{} pieces", asked.len());
    let ends = asked.iter().map(|range| range.end);
    let starts = asked.iter().map(|range| range.start).skip(1).chain([LARGE_BYTES as u64]);
    assert!(ends.eq(starts), "{asked:?}");
    assert_eq!(files(bench.cache.path()), [".m.gguf.lock", "m.gguf"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_is_not_fetched_again() {
    let bench = Bench::start().await;
    let body = large();
    let digest = hex(&Sha256::digest(&body));
    bench.set(|script| {
        script.body = body.clone();
        script.pause = Duration::from_millis(4);
    });
    // Gone in the middle, twice, as when a process is killed.
    for bytes in [1 << 20, 9 << 20] {
        let (fetcher, url) = (bench.fetcher(|_| {}), bench.url());
        tokio::select! {
            result = fetcher.obtain(&url) => panic!("still under way: {result:?}"),
            () = has_come(&bench, bytes) => {}
        }
        // A write that had begun ends.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!files(bench.cache.path()).contains(&"m.gguf".to_owned()), "nothing half-written");
    }
    let whole = map(&bench).expect("a record");
    bench.set(|script| {
        script.seen.clear();
        script.pause = Duration::ZERO;
    });
    let fetcher = bench.fetcher(|sources| sources.sha256 = Some(digest));
    assert!(content(&fetcher.obtain(&bench.url()).await.expect("resumed")) == body);
    let asked = ranges(&bench);
    let missing = LARGE_BYTES as u64 - whole.bytes();
    assert_eq!(asked.iter().map(|range| range.end - range.start).sum::<u64>(), missing);
    for range in asked {
        let mut with = whole.clone();
        with.insert(range.clone());
        let more = with.bytes() - whole.bytes();
        assert_eq!(more, range.end - range.start, "{range:?} was here already");
    }
}

#[tokio::test]
async fn leftovers_that_cannot_be_trusted_are_not_built_on() {
    async fn check(fact: &str, spoil: impl Fn(&Path, &Path), is_trusted: bool) {
        let bench = Bench::start().await;
        bench.set(|script| script.next.extend(vec![Next::CutAfter(20); 9]));
        let fetcher = bench.fetcher(|sources| sources.patience.attempts = 1);
        fetcher.obtain(&bench.url()).await.expect_err("cut");
        let folder = bench.cache.path().join("http").read_dir().expect("there");
        let folder = folder.map(|entry| entry.expect("an entry").path()).next().expect("one");
        spoil(&folder.join(".m.gguf.part"), &folder.join(".m.gguf.part.map"));
        bench.set(|script| {
            script.next.clear();
            script.seen.clear();
        });
        assert_eq!(content(&bench.obtain().await.expect(fact)), BODY, "{fact}");
        let first = if is_trusted { "bytes=20-52" } else { "bytes=0-4194303" };
        assert_eq!(bench.seen()[0].range.as_deref(), Some(first), "{fact}");
    }
    let edit = |path: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(path).expect("readable");
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).expect("written");
    };
    check("as it was left", |_, _| {}, true).await;
    check("no record", |_, map| fs::remove_file(map).expect("removed"), false).await;
    check("no part", |part, _| fs::remove_file(part).expect("removed"), false).await;
    check("a short part", |part, _| fs::write(part, "x").expect("written"), false).await;
    check("no version", |_, map| edit(map, "\"version\"", "\"other\""), false).await;
    check("of before a crash", |_, map| edit(map, "\"boot\":\"", "\"boot\":\"x"), false).await;
}

#[tokio::test]
async fn a_server_without_ranges_or_versions_serves_too() {
    let bench = Bench::start().await;
    bench.set(|script| {
        script.has_ranges = false;
        script.next.push_back(Next::CutAfter(20));
    });
    assert_eq!(content(&bench.obtain().await.expect("all over again")), BODY);

    let bench = Bench::start().await;
    bench.set(|script| script.has_tag = false);
    assert_eq!(content(&bench.obtain().await.expect("in one piece")), BODY);
    assert_eq!(bench.seen().last().expect("seen").range, None, "parts could be of two versions");

    let bench = Bench::start().await;
    bench.set(|script| script.body.clear());
    assert_eq!(content(&bench.obtain().await.expect("an empty file")), b"");
}

#[tokio::test]
async fn what_is_there_must_be_what_is_asked_for() {
    let bench = Bench::start().await;
    bench.obtain().await.expect("fetched");
    let other: &[u8] = b"another version";
    bench.set(|script| script.body = other.to_vec());
    let digest = hex(&Sha256::digest(other));
    let fetcher = bench.fetcher(|sources| sources.sha256 = Some(digest));
    let path = fetcher.obtain(&bench.url()).await.expect("fetched again");
    assert_eq!(content(&path), other);
}

#[tokio::test]
async fn half_a_file_is_told_from_a_whole_one() {
    let bench = Bench::start().await;
    bench.set(|script| {
        script.pages = listing("org/repo", "main", &["m.gguf"]);
        script.body.truncate(20);
    });
    let uri: ModelUri = "hf://org/repo".parse().expect("a URI");
    let error = bench.fetcher(|_| {}).obtain(&uri).await.expect_err("half a file");
    assert!(error.to_string().contains("20 bytes of a file of 53; upload"), "{error}");
    let bench = Bench::start().await;
    bench.set(|script| script.next.extend(vec![Next::CutAfter(0); 9]));
    let error = bench.obtain().await.expect_err("a server that gives up");
    assert!(error.is_transient(), "{error}");
}
