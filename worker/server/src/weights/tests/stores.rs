//! Registries and buckets, as far as a few lines can play them; `tests/processes` has real ones.

use rusty_s3::Credentials;

use super::*;

const XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>"#;

fn bucket(keys: &[&str], tag: &str) -> Vec<(String, String)> {
    let object = |key: &&str| {
        let bytes = BODY.len();
        format!("<Contents><Key>{key}</Key><Size>{bytes}</Size><ETag>{tag}</ETag></Contents>")
    };
    let objects: String = keys.iter().map(object).collect();
    let text = format!("{XML}<IsTruncated>false</IsTruncated>{objects}</ListBucketResult>");
    vec![("/bucket/".to_owned(), text)]
}

#[tokio::test]
async fn an_object_is_fetched_by_a_signed_address_that_nobody_sees() {
    let bench = Bench::start().await;
    let signing = |sources: &mut Sources| {
        sources.s3.credentials = Some(Credentials::new("AKID", "secret"));
    };
    let uri: ModelUri = "s3://bucket/llm/m.gguf".parse().expect("a URI");
    let path = bench.fetcher(signing).obtain(&uri).await.expect("fetched");
    assert_eq!(content(&path), BODY);
    let seen = &bench.seen()[0];
    assert_eq!(seen.path, "/bucket/llm/m.gguf");
    assert!(seen.query.contains("X-Amz-Signature="), "{}", seen.query);

    let bench = Bench::start().await;
    bench.set(|script| script.next.extend(vec![Next::Answer(StatusCode::FORBIDDEN); 9]));
    let error = bench.fetcher(signing).obtain(&uri).await.expect_err("not allowed");
    let text = format!("{error:?} {error}");
    assert!(matches!(error, FetchError::Forbidden { .. }), "{text}");
    assert!(!text.contains("Signature") && !text.contains("AKID"), "{text}");
}

#[tokio::test]
async fn a_folder_of_a_bucket_is_fetched_and_again_when_it_changes() {
    let bench = Bench::start().await;
    let keys = ["llm/config.json", "llm/model.safetensors", "llm/README.md", "llm/"];
    bench.set(|script| script.pages = bucket(&keys, "v1"));
    let uri: ModelUri = "s3://bucket/llm/".parse().expect("a URI");
    let first = bench.fetcher(|_| {}).obtain(&uri).await.expect("fetched");
    let listed = &bench.seen()[0];
    assert!(listed.query.contains("prefix=llm%2F"), "{}", listed.query);
    assert!(!listed.query.contains("Signature"), "nobody in particular: {}", listed.query);
    let mut names = files(&first);
    names.retain(|name| !name.ends_with(".lock"));
    assert_eq!(names, ["config.json", "model.safetensors"]);
    assert_eq!(bench.fetcher(|_| {}).obtain(&uri).await.expect("cached"), first);
    bench.set(|script| script.pages = bucket(&keys, "v2"));
    let second = bench.fetcher(|_| {}).obtain(&uri).await.expect("fetched anew");
    assert_ne!(second, first);
    bench.set(|script| script.pages = bucket(&["llm/../../x.gguf"], "v3"));
    let error = bench.fetcher(|_| {}).obtain(&uri).await.expect_err("an escape");
    assert!(matches!(error, FetchError::UnsafeName { .. }), "{error}");
    bench.set(|script| script.pages = vec![("/bucket/".to_owned(), "<html>".to_owned())]);
    let error = bench.fetcher(|_| {}).obtain(&uri).await.expect_err("no bucket");
    assert!(error.to_string().contains("list of objects"), "{error}");
}

/// What a registry answers about an artifact of these layers.
fn artifact(layers: serde_json::Value) -> Vec<(String, String)> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.example.model",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": format!("sha256:{}", hex(&Sha256::digest("{}"))),
            "size": 2,
        },
        "layers": layers,
    });
    let manifest = ("/v2/llm/smol/manifests/v1".to_owned(), manifest.to_string());
    vec![("/v2/".to_owned(), "{}".to_owned()), manifest]
}

fn layer(name: &str, digest: &str, unpack: bool) -> serde_json::Value {
    let mut annotations = json!({"org.opencontainers.image.title": name});
    if unpack {
        annotations["io.deis.oras.content.unpack"] = json!("true");
    }
    json!({
        "mediaType": "application/octet-stream",
        "digest": format!("sha256:{digest}"),
        "size": BODY.len(),
        "annotations": annotations,
    })
}

#[tokio::test]
async fn an_artifact_is_fetched_by_the_names_of_its_layers() {
    let bench = Bench::start().await;
    let digest = hex(&Sha256::digest(BODY));
    let set = |layers| bench.set(|script| script.pages = artifact(layers));
    let uri: ModelUri = format!("oci://{}/llm/smol:v1", bench.address).parse().expect("a URI");
    set(json!([layer("README.md", &digest, false), layer("m.gguf", &digest, false)]));
    let path = bench.fetcher(|_| {}).obtain(&uri).await.expect("fetched");
    assert!(path.ends_with("m.gguf"), "{}", path.display());
    assert_eq!(content(&path), BODY);
    let last = bench.seen().last().expect("seen").path.clone();
    assert_eq!(last, format!("/v2/llm/smol/blobs/sha256:{digest}"));
    let fail = async |fact: &str, layers, part: &str| {
        set(layers);
        let error = bench.fetcher(|_| {}).obtain(&uri).await.expect_err(fact).to_string();
        assert!(error.contains(part), "{fact}: {error}");
    };
    fail("a packed folder", json!([layer("m", &digest, true)]), "one by one").await;
    fail("an escape", json!([layer("../m.gguf", &digest, false)]), "unsafe name").await;
    fail("no model", json!([layer("x.md", &digest, false)]), "has no .gguf").await;
    let other = hex(&Sha256::digest("other"));
    fail("another blob", json!([layer("m.gguf", &other, false)]), "has the SHA-256").await;
    bench.set(|script| script.pages.clear());
    bench.set(|script| script.next.extend(vec![Next::Answer(StatusCode::UNAUTHORIZED); 9]));
    let error = bench.fetcher(|_| {}).obtain(&uri).await.expect_err("a stranger");
    assert!(matches!(error, FetchError::Unauthorized { .. }), "{error}");
}
