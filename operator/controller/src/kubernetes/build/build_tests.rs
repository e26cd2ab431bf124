use naru_api::{Source, check};
use serde_json::{Value, json};

use super::*;

fn wish(spec: &str) -> Desired {
    let text = format!(
        "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\n\
         metadata: {{name: solar, namespace: serving}}\n\
         spec: {{model: {{uri: https://h/m.gguf, names: [solar, s]}}, {spec}}}\n---\n\
         apiVersion: naru.dev/v1alpha1\nkind: PowerBudget\nmetadata: {{name: hall}}\n\
         spec: {{watts: 1000}}\n"
    );
    check(&[Source { file: "a.yaml", text: &text }]).unwrap().deployments.remove(0)
}

fn owned() -> OwnerReference {
    let metadata =
        ObjectMeta { name: Some("solar".into()), uid: Some("u-1".into()), ..ObjectMeta::default() };
    owner(&metadata)
}

fn image() -> WorkerImage {
    WorkerImage {
        image: "naru/worker:9".into(),
        pull_policy: "IfNotPresent".into(),
        has_tls: false,
        env: BTreeMap::new(),
        cache: None,
    }
}

fn set(spec: &str) -> Value {
    serde_json::to_value(replica(&wish(spec), ReplicaId(3), &owned(), &image())).unwrap()
}

/// What is at `path` of the replica made from a deployment with `spec`.
#[track_caller]
fn check_at(fact: &str, spec: &str, path: &str, expected: Value) {
    let set = set(spec);
    assert_eq!(set.pointer(path).unwrap_or(&Value::Null), &expected, "{fact}: {set:#}");
}

const POD: &str = "/spec/template/spec";

#[track_caller]
fn check_pod(fact: &str, spec: &str, path: &str, expected: Value) {
    check_at(fact, spec, &format!("{POD}{path}"), expected);
}

#[test]
fn a_replica() {
    check_at("its name", "", "/metadata/name", json!("solar-3"));
    check_at("its place", "", "/metadata/namespace", json!("serving"));
    check_at("one member", "", "/spec/replicas", json!(1));
    check_at("made at once", "", "/spec/podManagementPolicy", json!("Parallel"));
    check_at("never replaced by itself", "", "/spec/updateStrategy/type", json!("OnDelete"));
    check_at("its Service", "", "/spec/serviceName", json!("solar-members"));
    check_at("its names", "", "/metadata/annotations/naru.dev~1served-names", json!("solar,s"));
    let power = "power: {budget: hall, maxWattsPerDevice: 300}";
    for whose in ["", "/spec/template"] {
        let at = |what| format!("{whose}/metadata/annotations/naru.dev~1charged-{what}");
        check_at("who is charged", power, &at("power-budget"), json!("hall"));
        check_at("how much", power, &at("watts"), json!("300"));
        check_at("nobody", "", &at("watts"), json!(null));
    }
    let owner = json!([{
        "apiVersion": "naru.dev/v1alpha1", "kind": "ModelDeployment", "name": "solar",
        "uid": "u-1", "controller": true,
    }]);
    check_at("whose it is", "", "/metadata/ownerReferences", owner);
    let revision = wish("").template.revision().to_string();
    let labels = json!({
        "app.kubernetes.io/name": "naru-worker",
        "app.kubernetes.io/managed-by": "naru",
        "naru.dev/model-deployment": "solar",
        "naru.dev/replica": "3",
        "naru.dev/revision": revision,
    });
    check_at("its labels", "", "/metadata/labels", labels.clone());
    check_at("its pod's", "", "/spec/template/metadata/labels", labels);
    let selector = json!({"naru.dev/model-deployment": "solar", "naru.dev/replica": "3"});
    check_at("what it selects", "", "/spec/selector/matchLabels", selector);
}

#[test]
fn a_group() {
    let cut = "parallelism: {tensor: 2, pipeline: 2}";
    check_at("a pod for each member", cut, "/spec/replicas", json!(4));
    check_at("one member", "", "/spec/replicas", json!(1));
    check_pod("at the gate", cut, "/schedulingGates", json!([{"name": "naru.dev/group"}]));
    check_pod("placed as it comes", "", "/schedulingGates", Value::Null);
    let near = "/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/0\
                /podAffinityTerm/topologyKey";
    check_pod("near each other", cut, near, json!("kubernetes.io/hostname"));
    check_pod("not spread", cut, "/topologySpreadConstraints", Value::Null);
    let field = json!({"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"});
    check_pod("its number", cut, "/containers/0/env/1/valueFrom/fieldRef", field);
    check_pod("its links", cut, "/containers/0/ports/2/containerPort", json!(8002));
    let both = "parallelism: {tensor: 4, devicesPerMember: 2}, backend: cuda";
    check_at("two ranks each", both, "/spec/replicas", json!(2));
    let each = "/metadata/annotations/naru.dev~1devices-per-member";
    check_at("as whoever names ranks needs to know", both, each, json!("2"));
    let gpus = "/containers/0/resources/limits/nvidia.com~1gpu";
    check_pod("two GPUs each", both, gpus, json!("2"));
    let arguments = set(cut).pointer(&format!("{POD}/containers/0/args")).unwrap().clone();
    let arguments: Vec<String> = serde_json::from_value(arguments).unwrap();
    let value = |flag: &str| {
        let place = arguments.iter().position(|argument| argument == flag).unwrap();
        arguments[place + 1].as_str()
    };
    let cut = ["--tensor", "--pipeline", "--member"].map(value);
    assert_eq!(cut, ["2", "2", "$(NARU_MEMBER)"]);
    let members: Vec<_> = value("--members").split(',').collect();
    assert_eq!(members.len(), 4);
    assert_eq!(members[1], "solar-3-1.solar-members.serving.svc:8002");
    assert_eq!(value("--replica"), "serving/solar-3");
    let alone = set("parallelism: {tensor: 2, devicesPerMember: 2}").to_string();
    assert!(alone.contains("--devices-per-member"), "{alone}");
    assert!(!alone.contains("--members"), "one member has nobody to find: {alone}");
    assert!(!alone.contains("NARU_MEMBER"), "{alone}");
}

#[test]
fn a_pod() {
    let first = "/containers/0";
    let of = |path: &str| format!("{first}{path}");
    check_pod("no way to the API server", "", "/automountServiceAccountToken", json!(false));
    check_pod("no addresses of others", "", "/enableServiceLinks", json!(false));
    check_pod("not root", "", "/securityContext/runAsNonRoot", json!(true));
    check_pod(
        "few system calls",
        "",
        "/securityContext/seccompProfile/type",
        json!("RuntimeDefault"),
    );
    check_pod(
        "an image that stays",
        "",
        &of("/securityContext/readOnlyRootFilesystem"),
        json!(true),
    );
    check_pod("no powers", "", &of("/securityContext/capabilities/drop"), json!(["ALL"]));
    check_pod("none to gain", "", &of("/securityContext/allowPrivilegeEscalation"), json!(false));
    check_pod("its image", "", &of("/image"), json!("naru/worker:9"));
    check_pod("a minute to drain, and a margin", "", "/terminationGracePeriodSeconds", json!(70));
    let drain = "rollout: {drainSeconds: 0}";
    check_pod("no time to drain", drain, "/terminationGracePeriodSeconds", json!(10));
    check_pod("a cache", "", "/volumes", json!([{"name": "naru-cache", "emptyDir": {}}]));
    let cache = json!([{"name": "NARU_CACHE_DIR", "value": "/var/cache/naru"}]);
    check_pod("that it knows of", "", &of("/env"), cache);
    for (probe, path) in
        [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")]
    {
        check_pod("a probe", "", &of(&format!("/{probe}/httpGet/path")), json!(path));
        check_pod("on the ops port", "", &of(&format!("/{probe}/httpGet/port")), json!("ops"));
    }
    check_pod("nothing asked for", "", &of("/resources"), json!({}));
    let some = "resources: {requests: {cpu: 1500m, memory: 1Gi}, limits: {cpu: 2, memory: 2Gi}}";
    let resources = json!({
        "requests": {"cpu": "1500m", "memory": "1073741824"},
        "limits": {"cpu": "2", "memory": "2147483648"},
    });
    check_pod("what is asked for", some, &of("/resources"), resources);
    check_pod("anywhere", "", "/affinity", Value::Null);
    let zone = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                /nodeSelectorTerms/0/matchExpressions";
    let riyadh = json!([{
        "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["sa-riyadh-1"],
    }]);
    check_pod("in its zones", "placement: {zones: [sa-riyadh-1]}", zone, riyadh);
    check_pod(
        "apart",
        "",
        "/topologySpreadConstraints/0/topologyKey",
        json!("kubernetes.io/hostname"),
    );
}

#[test]
fn an_overlay() {
    let overlay = "podTemplate: {labels: {team: a}, annotations: {note: b}, \
        nodeSelector: {gpu: none}, tolerations: [{key: k, operator: Exists}], \
        env: [{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}], \
        volumes: [{name: models, mountPath: /models, persistentVolumeClaim: {claimName: m}}], \
        priorityClassName: high, schedulerName: other}";
    let template = "/spec/template/metadata";
    check_at("labels", overlay, &format!("{template}/labels/team"), json!("a"));
    check_at("annotations", overlay, &format!("{template}/annotations"), json!({"note": "b"}));
    check_pod("nodes", overlay, "/nodeSelector", json!({"gpu": "none"}));
    check_pod("taints", overlay, "/tolerations", json!([{"key": "k", "operator": "Exists"}]));
    let token = json!({
        "name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}},
    });
    check_pod("variables", overlay, "/containers/0/env/1", token);
    let volume = json!({"name": "models", "persistentVolumeClaim": {"claimName": "m"}});
    check_pod("volumes", overlay, "/volumes/1", volume);
    let mount = json!({"name": "models", "mountPath": "/models", "readOnly": true});
    check_pod("mounted", overlay, "/containers/0/volumeMounts/1", mount);
    check_pod("a priority", overlay, "/priorityClassName", json!("high"));
    check_pod("a scheduler", overlay, "/schedulerName", json!("other"));
}

#[test]
fn a_gpu() {
    let cuda = "backend: cuda";
    let container = |path: &str| format!("/containers/0{path}");
    check_pod(
        "one GPU",
        cuda,
        &container("/resources"),
        json!({"limits": {"nvidia.com/gpu": "1"}}),
    );
    let memory = "backend: cuda, resources: {limits: {memory: 2Gi}}";
    let limits = json!({"memory": "2147483648", "nvidia.com/gpu": "1"});
    check_pod("beside memory", memory, &container("/resources/limits"), limits);
    let part = "backend: cuda, accelerator: {resource: nvidia.com/mig-1g.10gb}";
    let limits = json!({"nvidia.com/mig-1g.10gb": "1"});
    check_pod("a part of one", part, &container("/resources/limits"), limits);
    let taint = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
    check_pod("on nodes for it", cuda, "/tolerations", json!([taint("nvidia.com/gpu")]));
    let both = json!([taint("nvidia.com/gpu"), taint("nvidia.com/mig-1g.10gb")]);
    check_pod("on nodes for either", part, "/tolerations", both);
    let other = "backend: cuda, podTemplate: {tolerations: [{key: k, operator: Exists}]}";
    let other_too = json!([taint("nvidia.com/gpu"), {"key": "k", "operator": "Exists"}]);
    check_pod("and on those that it may", other, "/tolerations", other_too);
    check_pod("any product", cuda, "/nodeSelector", Value::Null);
    let product = "backend: cuda, accelerator: {product: NVIDIA-L4, runtimeClassName: nvidia}, \
                   podTemplate: {nodeSelector: {pool: b}}";
    let selector = json!({"nvidia.com/gpu.product": "NVIDIA-L4", "pool": "b"});
    check_pod("one product", product, "/nodeSelector", selector);
    check_pod("a runtime", product, "/runtimeClassName", json!("nvidia"));
    check_pod("the cluster's runtime", cuda, "/runtimeClassName", Value::Null);
    let shm = json!({"name": "naru-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}});
    check_pod("shared memory", cuda, "/volumes/1", shm);
    let mount = json!({"name": "naru-shm", "mountPath": "/dev/shm"});
    check_pod("where it is looked for", cuda, &container("/volumeMounts/1"), mount);
    let capabilities = json!({"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"});
    check_pod("CUDA and NVML", cuda, &container("/env/1"), capabilities);
    check_pod("none on cores", "", &container("/env/1"), Value::Null);
    let own = "backend: cuda, \
               podTemplate: {env: [{name: NVIDIA_DRIVER_CAPABILITIES, value: all}]}";
    let all = json!({"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "all"});
    check_pod("its own word counts", own, &container("/env/1"), all);
    check_pod("once", own, &container("/env/2"), Value::Null);
}

#[test]
fn a_command_line() {
    let line = |spec: &str, has_tls: bool| {
        let image = WorkerImage { has_tls, ..image() };
        let set = replica(&wish(spec), ReplicaId(0), &owned(), &image);
        let set = serde_json::to_value(set).unwrap();
        let arguments = set.pointer(&format!("{POD}/containers/0/args")).cloned().unwrap();
        serde_json::from_value::<Vec<String>>(arguments).unwrap().join(" ")
    };
    let plain = line("", false);
    for part in [
        "--model https://h/m.gguf",
        "--served-name solar --served-name s",
        "--listen 0.0.0.0:8000",
        "--control-listen 0.0.0.0:8001",
        "--ops-listen 0.0.0.0:9090",
        "--drain-seconds 60",
    ] {
        assert!(plain.contains(part), "{part} is in {plain}");
    }
    assert!(!plain.contains("--tls-dir"), "{plain}");
    assert!(!plain.contains("--threads"), "the container's share of the machine: {plain}");
    assert!(line("", true).contains("--tls-dir /etc/naru/tls"));
    assert!(line("resources: {limits: {cpu: 3}}", false).contains("--threads 3"));
}

#[test]
fn what_is_beside_the_replicas() {
    let value = |object| serde_json::to_value::<Service>(object).unwrap();
    let service = value(service(&wish(""), &owned()));
    assert_eq!(service["metadata"]["name"], "solar-members");
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true);
    let kept = |replicas: u32| {
        let budget = budget(&wish(""), ReplicaCount(replicas), &owned());
        budget.spec.unwrap().min_available.unwrap()
    };
    assert_eq!(kept(0), IntOrString::Int(1), "the last one is never evicted");
    assert_eq!(kept(1), IntOrString::Int(1), "the only one waits for its successor");
    assert_eq!(kept(3), IntOrString::Int(2), "of three one may go");
}

/// What is mounted, each as `volume → path`, and the worker's argument after `flag`.
fn mounted(model: &str, image: &WorkerImage, flag: &str) -> (Vec<String>, Option<String>) {
    let text = format!(
        "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\n\
         metadata: {{name: solar, namespace: serving}}\nspec: {{model: {{{model}}}}}\n"
    );
    let mut parsed = check(&[Source { file: "a.yaml", text: &text }]).unwrap();
    let set = replica(&parsed.deployments.remove(0), ReplicaId(0), &owned(), image);
    let pod = set.spec.template.spec.unwrap();
    let container = &pod.containers[0];
    let source = |name: &str| {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == name).unwrap();
        let claim = volume.persistent_volume_claim.as_ref();
        let secret = volume.secret.as_ref();
        claim
            .map(|claim| format!("claim {}", claim.claim_name))
            .or(secret.and_then(|secret| Some(format!("secret {}", secret.secret_name.clone()?))))
            .unwrap_or_else(|| "its own".to_owned())
    };
    let mounts = container.volume_mounts.iter().flatten().map(|mount| {
        let read_only = if mount.read_only == Some(true) { ", to be read" } else { "" };
        format!("{} at {}{read_only}", source(&mount.name), mount.mount_path)
    });
    let arguments = container.args.clone().unwrap();
    let place = arguments.iter().position(|argument| argument == flag);
    (mounts.collect(), place.map(|place| arguments[place + 1].clone()))
}

#[test]
fn weights_and_what_opens_them() {
    let own = "its own at /var/cache/naru";
    let (mounts, model) = mounted("uri: \"s3://b/m.gguf\"", &image(), "--model");
    assert_eq!(mounts, [own]);
    assert_eq!(model.as_deref(), Some("s3://b/m.gguf"));

    let (mounts, model) = mounted("uri: \"pvc://models/llm/m.gguf\"", &image(), "--model");
    assert_eq!(mounts, [own, "claim models at /var/lib/naru/weights, to be read"]);
    assert_eq!(model.as_deref(), Some("/var/lib/naru/weights/llm/m.gguf"));

    let secret = "uri: \"hf://a/b\", secretName: hub";
    let (mounts, directory) = mounted(secret, &image(), "--credentials-dir");
    assert_eq!(mounts, [own, "secret hub at /etc/naru/credentials, to be read"]);
    assert_eq!(directory.as_deref(), Some("/etc/naru/credentials"));

    let cache = WeightsCache {
        storage_class: "fast".into(),
        size: "5Gi".into(),
        access_mode: "ReadWriteMany".into(),
    };
    let claim = serde_json::to_value(cache_claim("serving", &cache)).unwrap();
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "5Gi");
    assert_eq!(claim["metadata"]["ownerReferences"], Value::Null, "it outlives everybody");
    let image = WorkerImage { cache: Some(cache), ..image() };
    let (mounts, none) = mounted("uri: \"hf://a/b\"", &image, "--credentials-dir");
    assert_eq!(mounts, ["claim naru-weights at /var/cache/naru"]);
    assert_eq!(none, None);
}

#[test]
fn what_every_worker_is_told_gives_way_to_its_own() {
    let env = [("HF_ENDPOINT", "https://mirror"), ("NO_PROXY", ".svc")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let image = WorkerImage { env, ..image() };
    let spec = "podTemplate: {env: [{name: NO_PROXY, value: own}], \
                imagePullSecrets: [{name: registry}]}";
    let set = replica(&wish(spec), ReplicaId(3), &owned(), &image);
    let set = serde_json::to_value(set).unwrap();
    let expected = json!([
        {"name": "NARU_CACHE_DIR", "value": "/var/cache/naru"},
        {"name": "HF_ENDPOINT", "value": "https://mirror"},
        {"name": "NO_PROXY", "value": "own"},
    ]);
    assert_eq!(set.pointer(&format!("{POD}/containers/0/env")), Some(&expected));
    let secrets = set.pointer(&format!("{POD}/imagePullSecrets"));
    assert_eq!(secrets, Some(&json!([{"name": "registry"}])));
}

#[test]
fn another_image_makes_other_workers() {
    let revision = |image: &WorkerImage| {
        let set = replica(&image.make(wish("")), ReplicaId(3), &owned(), image);
        set.metadata.labels.unwrap()[labels::REVISION].clone()
    };
    let before = revision(&image());
    assert_eq!(revision(&image()), before, "the same one makes the same");
    let next = WorkerImage { image: "naru/worker:10".into(), ..image() };
    assert_ne!(revision(&next), before, "an upgrade reaches the workers");
    let elsewhere = WorkerImage { pull_policy: "Always".into(), has_tls: true, ..image() };
    assert_eq!(revision(&elsewhere), before, "the way to it does not matter");
}
