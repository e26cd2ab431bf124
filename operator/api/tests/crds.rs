//! The committed definitions, and the page of reasons, are the generated ones.

use std::path::Path;

/// A last-applied annotation of `kubectl apply` must hold each one.
const CRD_BYTES_MAX: usize = 40_000;
const COMMAND: &str = "UPDATE=1 cargo test -p naru-api";

#[test]
fn crds_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    for (file, crd) in naru_api::FILES.iter().zip(naru_api::crds()) {
        let generated = naru_api::to_yaml(&crd);
        assert!(generated.len() < CRD_BYTES_MAX, "{file} has {} bytes", generated.len());
        assert!(!generated.contains("uint"), "{file} has a format the API server does not know");
        same(&folder.join(file), &generated);
    }
}

#[test]
fn the_page_of_reasons_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    same(&folder.join("conditions.md"), &naru_api::conditions_page());
}

#[track_caller]
fn same(path: &Path, generated: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, generated).expect("the page is written");
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == generated, "{} is out of date; run: {COMMAND}", path.display());
}
