//! What a reviewer would otherwise have to say again and again.

use std::fs;

use naru_tests::{repository, tracked_files};

const FILE_LINES_MAX: usize = 500;
const LINE_CHARACTERS_MAX: usize = 100;

/// Files that may hold `unsafe`: the kernels, and the one file of the engine that maps weights.
fn may_be_unsafe(name: &str) -> bool {
    name.starts_with("worker/kernels/") || MAPS_WEIGHTS.contains(&name)
}

const MAPS_WEIGHTS: &[&str] = &["worker/engine/src/weights/map.rs"];

/// Words of unfinished work; put together here so that this file does not hold them.
fn forbidden() -> Vec<(String, &'static str)> {
    vec![
        (["todo", "!("].concat(), "finish it"),
        (["unimplemented", "!("].concat(), "finish it"),
        (["dbg", "!("].concat(), "remove it"),
        (["#[ign", "ore"].concat(), "a test runs or is removed"),
        (["FIX", "ME"].concat(), "fix it, or file an issue"),
        (["XX", "X "].concat(), "say what is meant"),
    ]
}

const GRAB_BAGS: &[&str] = &["utils", "util", "common", "helpers", "types", "manager", "misc"];

#[test]
fn rust_files_are_short_and_finished() {
    let mut faults = Vec::new();
    for name in tracked_files().expect("a git checkout").iter().filter(|name| name.ends_with(".rs"))
    {
        let text = fs::read_to_string(repository().join(name)).expect("a tracked file is readable");
        let product = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if product > FILE_LINES_MAX && !is_test(name) {
            faults.push(format!(
                "{name}: {product} lines, the most is {FILE_LINES_MAX} (tests aside)"
            ));
        }
        for (number, line) in text.lines().enumerate() {
            let at = format!("{name}:{}", number + 1);
            if line.chars().count() > LINE_CHARACTERS_MAX && !line.contains("://") {
                faults.push(format!("{at}: longer than {LINE_CHARACTERS_MAX} characters"));
            }
            for (word, advice) in forbidden() {
                if line.contains(&word) {
                    faults.push(format!("{at}: {word} … {advice}"));
                }
            }
            let code = line.split("//").next().unwrap_or_default();
            let is_unsafe = ["{", "fn", "impl"].iter().any(|next| code.contains(&after(next)));
            if is_unsafe && !may_be_unsafe(name) {
                faults.push(format!("{at}: only kernels and the mapping of weights may be unsafe"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_module_is_a_grab_bag() {
    for name in tracked_files().expect("a git checkout") {
        let stem =
            name.rsplit('/').next().unwrap_or_default().split('.').next().unwrap_or_default();
        let folder = name.rsplit('/').nth(1).unwrap_or_default();
        assert!(
            !GRAB_BAGS.contains(&stem) && !GRAB_BAGS.contains(&folder),
            "{name}: name a module after its noun",
        );
    }
}

#[test]
fn the_top_level_is_fixed() {
    const FIXED: &[&str] = &[
        ".cargo",
        ".ci",
        ".config",
        ".gitattributes",
        ".gitignore",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "Makefile",
        "README.md",
        "charts",
        "clippy.toml",
        "crds",
        "docs",
        "operator",
        "rustfmt.toml",
        "tests",
        "worker",
    ];
    for name in tracked_files().expect("a git checkout") {
        let top = name.split('/').next().unwrap_or_default();
        assert!(FIXED.contains(&top), "{name}: nothing new at the top level");
    }
}

#[test]
fn the_map_is_short() {
    let map = fs::read_to_string(repository().join("docs/architecture.md"))
        .expect("docs/architecture.md is there");
    assert!(map.lines().count() <= 200, "docs/architecture.md is a map: at most 200 lines");
}

/// A link from one document to another file of the repository leads somewhere.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for name in tracked_files().expect("a git checkout").iter().filter(|name| name.ends_with(".md"))
    {
        let path = repository().join(name);
        let text = fs::read_to_string(&path).expect("a tracked file is readable");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let is_local = !file.is_empty() && !target.contains("://") && !target.contains(' ');
            if is_local && !path.parent().is_some_and(|folder| folder.join(file).exists()) {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The keyword of unsafe code with `next` after it.
fn after(next: &str) -> String {
    ["unsafe", next].join(" ")
}

fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("/tests.rs") || name.ends_with("_test.rs")
}
