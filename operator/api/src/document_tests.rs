use naru_plan::{
    Access, Backend, Bytes, Millicores, Millis, PrefixCache, ReplicaCount, ServedName, TenantName,
    ZoneName,
};
use proptest::prelude::*;

use super::*;
use crate::pod_template::PodTemplate;

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
    check(&sources(&[text])).expect(fact).deployments.pop().expect(fact)
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

const TENANT: &str = "apiVersion: naru.dev/v1alpha1
kind: Tenant
metadata: {name: saudi, labels: {region: gulf}}
spec:
  keys:
  - {name: prod, sha256: SHA, expires: \"2027-01-01T03:00:00+03:00\"}
  quota: {concurrentRequests: 64}
";

fn tenant(name: &str, digit: &str) -> String {
    TENANT.replace("saudi", name).replace("SHA", &format!("\"{}\"", digit.repeat(64)))
}

#[test]
fn who_is_answered_where_and_by_how_many() {
    let scaled = accepted("scaling", &with("scaling: {maxReplicas: 8}")).scaling.unwrap();
    assert_eq!((scaled.min, scaled.max), (ReplicaCount(1), ReplicaCount(8)));
    assert_eq!(scaled.queued_tokens_per_replica, naru_plan::TokenCount(8192));
    assert_eq!(scaled.idle_before_zero, Millis::from_seconds(600));
    let access = |line: &str| accepted(line, &with(line)).access;
    assert_eq!(access("replicas: 1"), Access::All);
    let saudi = [TenantName::parse("saudi").unwrap()].into();
    assert_eq!(access("access: {tenants: [saudi]}"), Access::Tenants(saudi));
    let gulf = [("region".to_owned(), "gulf".to_owned())].into();
    assert_eq!(access("access: {selector: {matchLabels: {region: gulf}}}"), Access::Labels(gulf));
    let zones = accepted("zones", &with("placement: {zones: [th-1, sa-1]}")).template.zones;
    assert_eq!(zones.iter().map(ZoneName::as_str).collect::<Vec<_>>(), ["sa-1", "th-1"]);
    let resources = accepted("cpu", &with("resources: {requests: {cpu: 100m}}")).template.resources;
    assert_eq!(resources.requests.cpu, Some(Millicores(100)));
    let sim = SMALLEST.replace("file:///models/solar.gguf", "sim://llama");
    let sim = accepted("a simulation", &format!("{sim}  backend: sim\n"));
    assert_eq!(sim.template.backend, Backend::Sim);
}

#[test]
fn accelerators() {
    let of = |lines: &str| match accepted(lines, &with(lines)).template.backend {
        Backend::Cuda(accelerator) => accelerator,
        other => panic!("{other:?}"),
    };
    let any = of("backend: cuda");
    assert_eq!(any.resource.as_str(), "nvidia.com/gpu");
    assert_eq!((&any.product, &any.runtime), (&None, &None));
    assert_eq!(of("backend: cuda\n  accelerator: {}"), any);
    let one = of("backend: cuda\n  accelerator: {resource: nvidia.com/mig-1g.10gb, \
                  product: NVIDIA-H100-80GB-HBM3, runtimeClassName: nvidia}");
    assert_eq!(one.resource.as_str(), "nvidia.com/mig-1g.10gb");
    assert_eq!(one.product.unwrap().as_str(), "NVIDIA-H100-80GB-HBM3");
    assert_eq!(one.runtime.unwrap().as_str(), "nvidia");
}

#[test]
fn pod_templates_are_carried_whole() {
    let line = "podTemplate: {labels: {b: x, a: y}, env: [{name: A, valueFrom: {secretKeyRef: \
                {name: s, key: k}}}], volumes: [{name: m, mountPath: /m, configMap: {name: c}}]}";
    let template = accepted("a pod template", &with(line)).template;
    let pod = PodTemplate::of(&template);
    assert_eq!(pod.labels.len(), 2);
    assert_eq!(pod.env[0].value_from.as_ref().unwrap().secret_key_ref.key, "k");
    assert!(pod.volumes[0].read_only, "unless it is said otherwise");
    let plain = accepted("none", SMALLEST).template;
    assert_eq!(PodTemplate::of(&plain), PodTemplate::default());
    assert_ne!(template.revision(), plain.revision(), "another pod is another worker");
    let revision = |line: &str| accepted(line, &with(line)).template.revision();
    assert_eq!(revision("podTemplate: {}"), plain.revision(), "nothing said is nothing changed");
    assert_eq!(
        revision("podTemplate: {labels: {a: y, b: x}}"),
        revision("podTemplate: {labels: {b: x, a: y}}"),
        "the order of labels is none"
    );
    assert_eq!(revision("access: {tenants: [a]}"), plain.revision(), "nor is a worker a tenant's");
    assert_eq!(revision("scaling: {maxReplicas: 3}"), plain.revision());
}

#[test]
fn tenants_and_budgets() {
    let budget = "apiVersion: naru.dev/v1alpha1\nkind: PowerBudget\nmetadata: {name: hall-a}\n\
                  spec:\n  watts: 42000\n  \
                  schedule: [{from: \"12:00\", to: \"17:00\", watts: 30000}]\n";
    let all = [SMALLEST, &tenant("saudi", "0"), budget].join("---\n");
    let wishes = check(&sources(&[&all])).unwrap();
    let [saudi] = &wishes.tenants[..] else { panic!("one tenant: {wishes:?}") };
    assert_eq!(saudi.name.as_str(), "saudi");
    assert_eq!(saudi.labels["region"], "gulf");
    assert_eq!(saudi.concurrent_requests_max, Some(64));
    assert_eq!(saudi.keys[0].name.as_str(), "prod");
    assert_eq!(saudi.keys[0].expires_unix_seconds, Some(1_798_761_600), "in any zone");
    assert_eq!(format!("{:?}", wishes.power_budgets[0].schedule[0].time_zone), "UTC");
    assert!(wishes.cluster_fields.is_empty());
    let line = "scaling: {maxReplicas: 2}\n  power: {budget: hall-a, maxWattsPerDevice: 700}";
    let wishes = check(&sources(&[&with(line), budget])).unwrap();
    assert_eq!(wishes.cluster_fields.values().next().unwrap(), &["scaling"]);
    let power = wishes.deployments[0].power.as_ref().unwrap();
    assert_eq!(
        (power.budget.as_str(), power.watts_per_replica.0, power.priority),
        ("hall-a", 700, 0)
    );
}

fn budget(name: &str, fields: &str) -> String {
    format!(
        "apiVersion: naru.dev/v1alpha1\nkind: PowerBudget\nmetadata: {{name: {name}}}\n\
         spec: {{watts: 1000, {fields}}}\n"
    )
}

#[test]
fn budgets_that_hang_nowhere() {
    use ProblemReason::{BudgetInvalid, Invalid};
    let hell = with("power: {budget: hell, maxWattsPerDevice: 700}");
    let missing = "there is no PowerBudget \"hell\"";
    refused("one that is not there", &[&hell], &[("spec.power.budget", BudgetInvalid, missing)]);
    let part = budget("hall", "parent: hell");
    refused("a part of nothing", &[&part], &[("spec.parent", BudgetInvalid, missing)]);
    let ring = [budget("a", "parent: b"), budget("b", "parent: a")];
    let words = |ring: &str| format!("the budget would be part of itself: {ring}");
    let [first, second] = [words("a in b in a"), words("b in a in b")];
    refused(
        "a ring",
        &[&ring[0], &ring[1]],
        &[("spec.parent", BudgetInvalid, &first), ("spec.parent", BudgetInvalid, &second)],
    );
    let nowhere = budget(
        "a",
        "schedule: [{from: \"01:00\", to: \"02:00\", timeZone: Asia/Nowhere, watts: 9}]",
    );
    let words = "there is no time zone \"Asia/Nowhere\"";
    refused(
        "a clock that is nowhere",
        &[&nowhere],
        &[("spec.schedule[0].timeZone", Invalid, words)],
    );
    accepted("whatever comes first", &[hell.as_str(), &budget("hell", "")].join("---\n"));
}

#[test]
fn tenants_that_conflict() {
    use ProblemReason::{AlreadyExists, Invalid, KeyTaken};
    refused(
        "one tenant twice",
        &[&tenant("a", "0"), &tenant("a", "1")],
        &[("metadata.name", AlreadyExists, "a is also in a.yaml document 1")],
    );
    refused(
        "one key of two tenants",
        &[&tenant("a", "0"), &tenant("b", "0")],
        &[("spec.keys[0].sha256", KeyTaken, "the same key belongs to the tenant a")],
    );
    refused(
        "a tenant in a namespace",
        &[&tenant("a, namespace: b", "0")],
        &[("metadata.namespace", Invalid, "for the whole cluster")],
    );
    refused(
        "a day that no year has",
        &[&tenant("a", "0").replace("01-01T", "02-30T")],
        &[("spec.keys[0].expires", Invalid, "must be a time like")],
    );
    check(&sources(&[&SMALLEST.replace("solar", "a"), &tenant("a", "0")]))
        .expect("a tenant and a model may have one name");
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
    bad(
        "not one of the words",
        "backend: tpu",
        &[("spec.backend", Invalid, "one of [\"cpu\",\"cuda\",\"sim\"]")],
    );
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
        &[&changed("ModelDeployment", "Model")],
        &[(
            "kind",
            UnknownKind,
            "\"Model\" is not known to this version; known: naru.dev/v1alpha1 ModelDeployment",
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

/// What rules let pass; what each refuses is in `tests/definitions/refused.yaml`.
#[test]
fn rules() {
    use ProblemReason::RuleBroken;
    accepted("equal amounts", &with("resources: {requests: {cpu: 2}, limits: {cpu: 2000m}}"));
    accepted("equal bounds", &with("scaling: {minReplicas: 2, maxReplicas: 2}"));
    accepted("a log that says more", &with("podTemplate: {env: [{name: NARU_LOG, value: debug}]}"));
    accepted(
        "a KV cache that is the GPU's",
        &with(
            "backend: cuda\n  engine: {kvCacheMemory: 4Gi}\n  resources: {limits: {memory: 1Gi}}",
        ),
    );
    accepted("any taint", &with("podTemplate: {tolerations: [{operator: Exists}]}"));
    accepted(
        "a path beside",
        &with(
            "podTemplate: {volumes: [{name: a, mountPath: /etc/naruto, secret: {secretName: b}}]}",
        ),
    );
    for uri in ["file://a", "http://a/b", "ftp://a/b", "hf://", "models/a.gguf"] {
        let text = SMALLEST.replace("file:///models/solar.gguf", uri);
        let words = "must start with file:///, hf://, https://, oci://, s3://, pvc:// or sim://";
        refused(uri, &[&text], &[("spec.model.uri", RuleBroken, words)]);
    }
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
        fields in prop::collection::vec(values_of_any_type(), 19),
        place in 0_usize..19,
    ) {
        let lines = [
            "replicas", "backend", "engine", "resources", "rollout", "engine.maxSequences",
            "engine.kvCacheMemory", "resources.limits", "rollout.drainSeconds", "x", "scaling",
            "scaling.maxReplicas", "access.tenants", "access.selector", "placement.zones",
            "power.budget", "podTemplate.labels", "podTemplate.volumes", "accelerator.resource",
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

/// While definitions are newer than the operator, objects have fields that it does not know; who
/// wrote them has been told by the API server what nobody knows.
#[test]
fn objects_of_a_later_definition_are_read() {
    let object = serde_json::json!({
        "apiVersion": "naru.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "solar"},
        "spec": {
            "model": {"uri": "file:///m.gguf", "later": 1},
            "rollout": {"later": {"than": "this"}},
            "later": [],
        },
    });
    let deployment: crate::ModelDeployment = serde_json::from_value(object).unwrap();
    assert!(crate::parse(&deployment).is_ok());
}
