//! Who may know whom: the table of `docs/architecture.md`, checked against what cargo resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use naru_tests::repository;

/// What one crate may use of the workspace, and what it must not come to know, even through others.
struct Rule {
    name: &'static str,
    may_use: &'static [&'static str],
    must_never_know: &'static [&'static str],
}

const NETWORK: &[&str] =
    &["tokio", "hyper", "axum", "tonic", "reqwest", "kube-client", "kube-runtime"];

const RULES: &[Rule] = &[
    Rule {
        name: "naru-plan",
        may_use: &[],
        must_never_know: &[
            "tokio",
            "hyper",
            "http",
            "kube",
            "kube-core",
            "k8s-openapi",
            "rand",
            "getrandom",
            "chrono",
            "time",
            "tracing",
        ],
    },
    Rule {
        name: "naru-api",
        may_use: &["naru-plan"],
        must_never_know: &[
            "kube-client",
            "kube-runtime",
            "tokio",
            "hyper",
            "axum",
            "tonic",
            "reqwest",
        ],
    },
    Rule {
        name: "naru-controller",
        may_use: &["naru-api", "naru-plan", "naru-protocol"],
        must_never_know: &["tokenizers", "cudarc", "memmap2"],
    },
    Rule {
        name: "naru-gateway",
        may_use: &["naru-plan", "naru-protocol"],
        must_never_know: &[
            "kube",
            "kube-core",
            "k8s-openapi",
            "tokenizers",
            "minijinja",
            "memmap2",
        ],
    },
    Rule {
        name: "naru",
        may_use: &["naru-api", "naru-controller", "naru-gateway", "naru-plan", "naru-protocol"],
        must_never_know: &["tokenizers", "cudarc", "memmap2"],
    },
    Rule {
        name: "naru-protocol",
        may_use: &[],
        must_never_know: &["kube", "kube-core", "k8s-openapi", "tokenizers", "reqwest"],
    },
    Rule {
        name: "naru-kernels",
        may_use: &[],
        must_never_know: &[
            "tokio",
            "hyper",
            "http",
            "serde_json",
            "memmap2",
            "tracing",
            "rand",
            "rayon",
        ],
    },
    Rule {
        name: "naru-engine",
        may_use: &["naru-kernels"],
        must_never_know: &[
            "tokio",
            "hyper",
            "axum",
            "tonic",
            "kube",
            "kube-core",
            "chrono",
            "jiff",
            "time",
            "tracing",
            "reqwest",
        ],
    },
    Rule {
        name: "naru-worker",
        may_use: &["naru-engine", "naru-kernels", "naru-protocol"],
        must_never_know: &["kube", "kube-core", "kube-client", "k8s-openapi"],
    },
    // Nothing depends on the tests; they may look at everything.
    Rule {
        name: "naru-tests",
        may_use: &[
            "naru-api",
            "naru-controller",
            "naru-engine",
            "naru-gateway",
            "naru-kernels",
            "naru-plan",
            "naru-protocol",
        ],
        must_never_know: &[],
    },
];

#[test]
fn every_crate_of_the_workspace_has_a_rule() {
    let metadata = metadata();
    let found: BTreeSet<&str> =
        metadata.workspace_packages().iter().map(|p| p.name.as_str()).collect();
    let ruled: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(
        found, ruled,
        "a new crate needs a rule here, a paragraph in docs/architecture.md and an ADR"
    );
}

#[test]
fn crates_of_the_workspace_use_only_those_they_may() {
    for package in metadata().workspace_packages() {
        let rule = rule(package);
        for dependency in package.dependencies.iter().filter(|d| d.name.starts_with("naru")) {
            assert!(
                rule.may_use.contains(&dependency.name.as_str()),
                "{} uses {}: a new edge between crates is an ADR",
                package.name,
                dependency.name,
            );
        }
    }
}

#[test]
fn no_crate_comes_to_know_what_it_must_not() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let known = known(&metadata, package);
        for forbidden in rule(package).must_never_know {
            if let Some(path) = known.get(*forbidden) {
                panic!("{} must never know {forbidden}, and does: {path}", package.name);
            }
        }
    }
}

#[test]
fn the_pure_crates_know_no_network() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        if ["naru-plan", "naru-kernels", "naru-engine", "naru-api"].contains(&package.name.as_str())
        {
            let known = known(&metadata, package);
            for forbidden in NETWORK {
                assert!(
                    !known.contains_key(*forbidden),
                    "{} knows {}",
                    package.name,
                    known[*forbidden]
                );
            }
        }
    }
}

/// Each direct third-party dependency is a row, with its reason; each row is a dependency.
#[test]
fn every_third_party_crate_is_a_row_in_the_list_of_dependencies() {
    let document = fs::read_to_string(repository().join("docs/dependencies.md"))
        .expect("docs/dependencies.md is there");
    let rows: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name.to_owned())
        .collect();
    let mut used = BTreeSet::new();
    for package in metadata().workspace_packages() {
        used.extend(
            package
                .dependencies
                .iter()
                .map(|d| d.name.clone())
                .filter(|name| !name.starts_with("naru")),
        );
    }
    let without_row: Vec<_> = used.difference(&rows).collect();
    let without_use: Vec<_> = rows.difference(&used).collect();
    assert!(
        without_row.is_empty(),
        "give each a row and a reason in docs/dependencies.md: {without_row:?}"
    );
    assert!(
        without_use.is_empty(),
        "no crate uses these any more, remove their rows: {without_use:?}"
    );
}

fn metadata() -> Metadata {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(repository().join("Cargo.toml"))
        .other_options(vec!["--locked".into(), "--filter-platform".into(), platform])
        .exec()
        .expect("cargo metadata of the workspace")
}

fn rule(package: &Package) -> &'static Rule {
    let name = package.name.as_str();
    RULES.iter().find(|rule| rule.name == name).expect("a rule for each crate")
}

/// Parts of a crate that come with a feature. One build unites what all its crates ask for, so who
/// is built with a part need not be who asked for it.
const PARTS: &[(&str, &str, &str)] =
    &[("kube", "client", "kube-client"), ("kube", "runtime", "kube-runtime")];

/// The parts that neither `package` nor what it uses of the workspace asks for.
fn others_parts(metadata: &Metadata, package: &Package) -> BTreeSet<(&'static str, &'static str)> {
    let mut own = vec![package];
    let mut asked = BTreeSet::new();
    while let Some(package) = own.pop() {
        for dependency in &package.dependencies {
            asked.extend(dependency.features.iter().map(|feature| (&dependency.name, feature)));
            let used = metadata.workspace_packages().into_iter();
            own.extend(used.filter(|used| *used.name == *dependency.name));
        }
    }
    let is_others = |(whole, feature, _): &&(&str, &str, &str)| {
        !asked.iter().any(|(name, asked)| name == whole && asked == feature)
    };
    PARTS.iter().filter(is_others).map(|(whole, _, part)| (*whole, *part)).collect()
}

/// Every crate that `package` is built with, each with how it came in: itself included, what only
/// its tests or its build script need left out, and the parts that others asked for.
fn known(metadata: &Metadata, package: &Package) -> BTreeMap<String, String> {
    let resolve = metadata.resolve.as_ref().expect("cargo metadata resolves");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let others = others_parts(metadata, package);
    let mut known = BTreeMap::new();
    let mut waiting = vec![(&package.id, package.name.to_string())];
    while let Some((id, path)) = waiting.pop() {
        let name = metadata[id].name.to_string();
        if known.contains_key(&name) {
            continue;
        }
        known.insert(name.clone(), path.clone());
        for dependency in &nodes[id].deps {
            let part = metadata[&dependency.pkg].name.as_str();
            if others.contains(&(name.as_str(), part)) {
                continue;
            }
            let is_built_in =
                dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            // A procedural macro runs in the compiler and is not part of what is built.
            if is_built_in
                && !metadata[&dependency.pkg].targets.iter().any(|target| target.is_proc_macro())
            {
                waiting.push((
                    &dependency.pkg,
                    format!("{path} → {}", metadata[&dependency.pkg].name),
                ));
            }
        }
    }
    known
}
