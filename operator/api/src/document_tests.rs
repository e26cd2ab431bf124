use naru_plan::{Backend, Bytes, Millis, PrefixCache, ReplicaCount};
use proptest::prelude::*;

use super::*;

const SMALLEST: &str = "apiVersion: naru.dev/v1alpha1
kind: ModelDeployment
metadata: {name: solar}
spec:
  model: {uri: file:///models/solar.gguf}
";

fn sources<'a>(texts: &[&'a str]) -> Vec<Source<'a>> {
    texts.iter().map(|text| Source { file: "a.yaml", text }).collect()
}

/// The smallest document with one line more in its spec.
fn with(line: &str) -> String {
    format!("{SMALLEST}  {line}\n")
}

#[track_caller]
fn accepted(fact: &str, text: &str) -> Desired {
    check(&sources(&[text])).expect(fact).pop().expect(fact)
}

/// Exactly these problems, written `path: reason: words that occur in the message`.
#[track_caller]
fn refused(fact: &str, texts: &[&str], expected: &[(&str, ProblemReason, &str)]) {
    let problems = check(&sources(texts)).expect_err(fact);
    assert_eq!(problems.len(), expected.len(), "{fact}: {problems:#?}");
    for (problem, (path, reason, words)) in problems.iter().zip(expected) {
        assert_eq!((problem.path.as_str(), problem.reason), (*path, *reason), "{fact}: {problem}");
        assert!(problem.message.contains(words), "{fact}: {problem}");
    }
}

#[test]
fn defaults() {
    let desired = accepted("the smallest document", SMALLEST);
    assert_eq!(desired.name.to_string(), "default/solar");
    assert_eq!(desired.replicas, ReplicaCount(1));
    assert_eq!(desired.drain, Millis::from_seconds(60));
    let template = desired.template;
    assert_eq!(template.names.iter().map(ServedName::as_str).collect::<Vec<_>>(), ["solar"]);
    assert_eq!(template.backend, Backend::Cpu);
    assert_eq!(template.engine.max_sequences, 64);
    assert_eq!(template.engine.max_batch_tokens, 512);
    assert_eq!(template.engine.max_context_tokens, None);
    assert_eq!(template.engine.kv_cache, Bytes(1 << 30));
    assert_eq!(template.engine.prefix_cache, PrefixCache::Tenant);
    assert_eq!(template.resources, naru_plan::Resources::default());
}

#[test]
fn values() {
    let desired = accepted("a number of replicas", &with("replicas: 3"));
    assert_eq!(desired.replicas, ReplicaCount(3));
    let partly = accepted("an engine half written", &with("engine: {maxSequences: 8}"));
    assert_eq!(partly.template.engine.max_sequences, 8);
    assert_eq!(partly.template.engine.max_batch_tokens, 512, "keeps the other defaults");
    let off = accepted(
        "a word that other YAML readers take for false",
        &with("engine: {prefixCache: off}"),
    );
    assert_eq!(off.template.engine.prefix_cache, PrefixCache::Off);
    let threads =
        |line: &str| accepted(line, &with(line)).template.resources.threads.unwrap().0.get();
    assert_eq!(threads("resources: {limits: {cpu: 4}}"), 4);
    assert_eq!(threads("resources: {limits: {cpu: \"4\"}, requests: {cpu: 2}}"), 4, "the limit");
    assert_eq!(threads("resources: {requests: {cpu: 2500m}}"), 2, "rounded down");
    assert_eq!(threads("resources: {requests: {cpu: 100m}}"), 1, "at least one");
    let memory = accepted("memory", &with("resources: {requests: {memory: 2Gi}}"));
    assert_eq!(memory.template.resources.memory, Some(Bytes(2 << 30)));
    accepted("null is the same as nothing", &with("engine: null"));
    accepted(
        "what the API server adds",
        &SMALLEST.replace("{name: solar}", "{name: solar, uid: x}"),
    );
}

#[test]
fn schema_errors() {
    use ProblemReason::{Invalid, UnknownField};
    let bad = |fact, line: &str, expected: &[_]| refused(fact, &[&with(line)], expected);
    bad(
        "an unknown field",
        "engine: {maxSequence: 8}",
        &[("spec.engine.maxSequence", UnknownField, "known here: kvCacheMemory, maxBatchTokens")],
    );
    bad(
        "below the minimum",
        "engine: {maxSequences: 0}",
        &[("spec.engine.maxSequences", Invalid, "must be at least 1, not 0")],
    );
    bad(
        "above the maximum",
        "replicas: 1001",
        &[("spec.replicas", Invalid, "must be at most 1000, not 1001")],
    );
    bad("not a whole number", "replicas: 1.5", &[("spec.replicas", Invalid, "of type integer")]);
    bad(
        "not a number",
        "replicas: two",
        &[("spec.replicas", Invalid, "of type integer, not \"two\"")],
    );
    bad("not one of the words", "backend: cuda", &[("spec.backend", Invalid, "one of [\"cpu\"]")]);
    bad(
        "not the pattern",
        "resources: {limits: {cpu: lots}}",
        &[("spec.resources.limits.cpu", Invalid, "must match")],
    );
    bad(
        "neither number nor text",
        "resources: {limits: {cpu: true}}",
        &[("spec.resources.limits.cpu", Invalid, "a whole number or text, not true")],
    );
    bad(
        "several at once",
        "engine: {maxSequences: 0, maxBatchTokens: no, x: 1}",
        &[
            ("spec.engine.x", UnknownField, "unknown field"),
            ("spec.engine.maxSequences", Invalid, "at least 1"),
            ("spec.engine.maxBatchTokens", Invalid, "of type integer"),
        ],
    );
    let names =
        |names: &str| SMALLEST.replace("solar.gguf", &format!("solar.gguf, names: {names}"));
    refused(
        "an item of a list",
        &[&names("[a, \" \"]")],
        &[("spec.model.names[1]", Invalid, "must match")],
    );
    refused("an empty list", &[&names("[]")], &[("spec.model.names", Invalid, "at least 1 items")]);
    refused(
        "no model",
        &[&SMALLEST.replace("  model: {uri: file:///models/solar.gguf}", "  {}")],
        &[("spec.model", Invalid, "is required")],
    );
}

#[test]
fn objects() {
    use ProblemReason::{AlreadyExists, Invalid, NameTaken, NotYaml, UnknownField, UnknownKind};
    let changed = |from: &str, to: &str| SMALLEST.replace(from, to);
    refused(
        "another kind",
        &[&changed("ModelDeployment", "Tenant")],
        &[(
            "kind",
            UnknownKind,
            "\"Tenant\" is not known to this version; known: naru.dev/v1alpha1 ModelDeployment",
        )],
    );
    refused(
        "another version",
        &[&changed("v1alpha1", "v2")],
        &[("apiVersion", UnknownKind, "has no version \"naru.dev/v2\"")],
    );
    refused(
        "no name",
        &[&changed("{name: solar}", "{}")],
        &[("metadata.name", Invalid, "is required")],
    );
    refused(
        "a wrong top field",
        &[&changed("spec:", "specs: 1\nspec:")],
        &[("specs", UnknownField, "known here: spec, status")],
    );
    refused(
        "a wrong namespace",
        &[&changed("{name: solar}", "{name: solar, namespace: A}")],
        &[("metadata.namespace", Invalid, "DNS label")],
    );
    refused("a list", &["[1]"], &[("", NotYaml, "must be a map")]);
    refused("an empty file", &["# nothing"], &[("", NotYaml, "holds no document")]);
    refused("half a file", &[SMALLEST, "kind: [Model"], &[("", NotYaml, "")]);
    refused(
        "one object twice",
        &[SMALLEST, SMALLEST],
        &[("metadata.name", AlreadyExists, "default/solar is also in a.yaml document 1")],
    );
    let other = changed("{name: solar}", "{name: other}");
    let other = other.replace("solar.gguf", "solar.gguf, names: [x, solar]");
    refused(
        "one name twice",
        &[SMALLEST, &other],
        &[(
            "spec.model.names[1]",
            NameTaken,
            "the served name \"solar\" is taken by default/solar",
        )],
    );
}

/// Each CEL rule refuses, with its own words; the same sentences hold on an API server.
#[test]
fn rules() {
    use ProblemReason::RuleBroken;
    let bad = |fact, line: &str, path, words| {
        refused(fact, &[&with(line)], &[(path, RuleBroken, words)]);
    };
    bad(
        "a batch smaller than its sequences",
        "engine: {maxSequences: 65, maxBatchTokens: 64}",
        "spec.engine",
        "maxBatchTokens must be at least maxSequences",
    );
    bad("no cache", "engine: {kvCacheMemory: 0}", "spec.engine", "must be more than 0");
    bad(
        "a cache larger than the memory",
        "resources: {limits: {memory: 1Gi}}",
        "spec",
        "engine.kvCacheMemory must be less than resources.limits.memory",
    );
    bad(
        "more processor asked than allowed",
        "resources: {requests: {cpu: 2}, limits: {cpu: 1500m}}",
        "spec.resources",
        "requests.cpu must not be more than limits.cpu",
    );
    bad(
        "more memory asked than allowed",
        "resources: {requests: {memory: 3Gi}, limits: {memory: 2Gi}}",
        "spec.resources",
        "requests.memory must not be more than limits.memory",
    );
    accepted("equal amounts", &with("resources: {requests: {cpu: 2}, limits: {cpu: 2000m}}"));
    for uri in ["file://a", "http://a/b", "s3://a/b", "hf://", "models/a.gguf"] {
        let text = SMALLEST.replace("file:///models/solar.gguf", uri);
        let words = "must start with file:///, hf:// or https://";
        refused(uri, &[&text], &[("spec.model.uri", RuleBroken, words)]);
    }
    let twice = SMALLEST.replace("solar.gguf", "solar.gguf, names: [a, b, a]");
    refused("a name twice", &[&twice], &[("spec.model.names", RuleBroken, "is listed twice")]);
    for name in ["Solar", "a.b", "-a", &"a".repeat(49)] {
        let text = SMALLEST.replace("{name: solar}", &format!("{{name: {name}}}"));
        refused(name, &[&text], &[("", RuleBroken, "metadata.name must be a DNS label")]);
    }
}

fn values_of_any_type() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("-1".to_owned()),
        Just("1e400".to_owned()),
        Just("99999999999999999999999".to_owned()),
        Just("[1, {a: b}]".to_owned()),
        Just("{a: 1}".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        "[a-zA-Z0-9./:_-]{0,40}".prop_map(|text| format!("\"{text}\"")),
    ]
}

proptest! {
    #[test]
    fn text_never_panics(text in "\\PC{0,200}") {
        let _ = check(&sources(&[&text]));
    }

    #[test]
    fn fields_of_any_type_never_panic(
        fields in prop::collection::vec(values_of_any_type(), 10),
        place in 0_usize..10,
    ) {
        let lines = [
            "replicas", "backend", "engine", "resources", "rollout", "engine.maxSequences",
            "engine.kvCacheMemory", "resources.limits", "rollout.drainSeconds", "x",
        ];
        let line = match lines[place].split_once('.') {
            Some((outer, inner)) => format!("{outer}: {{{inner}: {}}}", fields[place]),
            None => format!("{}: {}", lines[place], fields[place]),
        };
        let _ = check(&sources(&[&with(&line)]));
        let name = SMALLEST.replace("{name: solar}", &format!("{{name: {}}}", fields[place]));
        let _ = check(&sources(&[&name]));
    }
}
