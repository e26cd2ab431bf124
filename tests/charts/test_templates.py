"""What the charts render to, before any cluster sees it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from charts_under_test import CHARTS, EVERYTHING, REPOSITORY, SITES, of_site

PACKAGE_BYTES_MAX = 60_000
CRD_BYTES_MAX = 40_000


def options(*settings):
    return [part for setting in settings for part in ("--set", setting)]


def by_kind(objects, kind):
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def pods(objects):
    return {name: found["spec"]["template"]["spec"] for name, found in by_kind(objects, "Deployment").items()}


@pytest.mark.parametrize("chart", ["naru", "naru-crds"])
def test_helm_finds_no_fault(helm, chart):
    helm.run("lint", "--strict", CHARTS / chart)
    helm.run("lint", "--strict", CHARTS / chart, *(EVERYTHING if chart == "naru" else []))


@pytest.mark.parametrize("site", SITES)
def test_helm_finds_no_fault_with_a_site(helm, site):
    helm.run("lint", "--strict", CHARTS / "naru", of_site(site))


@pytest.mark.parametrize("chart", ["naru", "naru-crds"])
def test_it_has_the_version_of_everything_else(helm, chart):
    version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    found = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
    assert (found["version"], found["appVersion"]) == (version, version)


@pytest.mark.parametrize("chart", ["naru", "naru-crds"])
def test_the_package_is_small(helm, chart, tmp_path):
    helm.run("package", CHARTS / chart, "--destination", tmp_path)
    [package] = tmp_path.iterdir()
    assert package.stat().st_size < PACKAGE_BYTES_MAX


def test_the_definitions_are_those_of_the_repository(helm):
    ours = {path.name: path.read_text() for path in (REPOSITORY / "crds").glob("*.yaml")}
    copies = {path.name: path.read_text() for path in (CHARTS / "naru-crds/files").glob("*.yaml")}
    assert copies == ours, "run: cp crds/*.yaml charts/naru-crds/files/"
    for name, text in ours.items():
        assert len(text) < CRD_BYTES_MAX, f"{name}: plain `kubectl apply` would refuse it"


@pytest.mark.parametrize("keep", [True, False])
def test_the_definitions_outlive_their_release_unless_asked(helm, keep):
    rendered = helm.template("naru-crds", *options(f"keep={str(keep).lower()}"))
    ours = [yaml.safe_load(path.read_text()) for path in sorted((REPOSITORY / "crds").glob("*.yaml"))]
    for found in rendered:
        metadata = found["metadata"]
        assert metadata.pop("annotations", None) == ({"helm.sh/resource-policy": "keep"} if keep else None)
        metadata.pop("labels")
    assert rendered == ours


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("replicas=2", "replicas"),
        ("gateway.replica=2", "replica"),
        ("image.repository=x", "repository"),
        ("image.digests.agent=x", "agent"),
        ("monitoring.serviceMonitor.enabled=true", "serviceMonitor"),
        ("gateway.service.nodePort=1", "nodePort"),
        ("door.tls=true", "tls"),
        ("networkPolicies.namespaces={a}", "namespaces"),
    ],
)
def test_a_value_that_does_not_exist_is_refused(helm, setting, field):
    assert f"'{field}' not allowed" in helm.refusal("naru", *options(setting)).replace('"', "'")


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("gateway.replicas=many", "gateway.replicas"),
        ("image.pullPolicy=Sometimes", "image.pullPolicy"),
        ("image.registry=", "image.registry"),
        ("image.digests.worker=latest", "image.digests.worker"),
        ("operator.certificateLifetime=soon", "operator.certificateLifetime"),
        ("webhook.failurePolicy=Maybe", "webhook.failurePolicy"),
        ("gateway.drainSeconds=-1", "gateway.drainSeconds"),
        ("gateway.service.type=Anywhere", "gateway.service.type"),
        ("gateway.tls.secretName=A_b", "gateway.tls.secretName"),
        ("operator.replicas=6", "operator.replicas"),
        ("operator.extraEnv[0].value=x", "operator.extraEnv.0"),
        ("webhook.timeoutSeconds=31", "webhook.timeoutSeconds"),
        ("monitoring.podMonitors.interval=often", "monitoring.podMonitors.interval"),
        ("traces.endpoint=collector:4317", "traces.endpoint"),
        ("door.host=https://api.example.com", "door.host"),
        ("door.ingress.enabled=true", "door.host"),
        ("door.httpRoute.enabled=true", "door.httpRoute.parents"),
        ("door.httpRoute.requestTimeout=forever", "door.httpRoute.requestTimeout"),
        ("networkPolicies.workerNamespaces={A}", "networkPolicies.workerNamespaces.0"),
        ("networkPolicies.weights.ports={}", "networkPolicies.weights.ports"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(helm, setting, path):
    assert path.replace(".", "/") in helm.refusal("naru", *options(setting)).replace(".", "/")


def test_every_value_is_in_the_schema_and_has_a_default():
    def compare(values, schema, path):
        assert schema.get("additionalProperties") is False, path
        declared = set(schema["properties"]) - {"global", "claims"}
        assert set(values) == declared, path
        for name, value in values.items():
            if "properties" in schema["properties"][name]:
                compare(value, schema["properties"][name], f"{path}.{name}")

    values = yaml.safe_load((CHARTS / "naru/values.yaml").read_text())
    compare(values, json.loads((CHARTS / "naru/values.schema.json").read_text()), "values")


def test_every_value_is_explained():
    with_the_one_before = {"podAnnotations", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName"}
    before = ""
    for line in (CHARTS / "naru/values.yaml").read_text().splitlines():
        if (value := re.match(r"  (\w+):", line)) and value[1] not in with_the_one_before:
            assert before.startswith("  # "), f"no comment above {line}"
        before = line


def test_no_service_shows_metrics_to_the_world(helm):
    """Why there are PodMonitors, and no ServiceMonitor."""
    objects = helm.template("naru", *EVERYTHING)
    shown = {port["targetPort"] for service in by_kind(objects, "Service").values() for port in service["spec"]["ports"]}
    assert shown == {"http", "webhook", "control"}
    scraped = {endpoint["port"] for each in by_kind(objects, "PodMonitor").values() for endpoint in each["spec"]["podMetricsEndpoints"]}
    assert scraped == {"ops"}


def test_gateways_that_end_tls_themselves(helm):
    """The Secret is mounted whole and read-only; Service and notes say https; probes stay where they were."""
    plain, shown = (helm.template("naru", *given) for given in ([], options("gateway.tls.secretName=door-tls")))
    [port] = by_kind(shown, "Service")["naru-gateway"]["spec"]["ports"]
    assert port == {"name": "https", "port": 443, "targetPort": "https", "appProtocol": "https"}
    [port] = by_kind(plain, "Service")["naru-gateway"]["spec"]["ports"]
    assert port == {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}
    pod, before = pods(shown)["naru-gateway"], pods(plain)["naru-gateway"]
    [container], [container_before] = pod["containers"], before["containers"]
    more = [argument for argument in container["args"] if argument not in container_before["args"]]
    assert more == ["--tls-cert=/etc/naru/door/tls.crt", "--tls-key=/etc/naru/door/tls.key"]
    assert {"name": "door", "mountPath": "/etc/naru/door", "readOnly": True} in container["volumeMounts"]
    [door] = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "door"]
    assert (door["secretName"], door["defaultMode"]) == ("door-tls", 0o440)
    assert {"name": "https", "containerPort": 8080} in container["ports"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe] == container_before[probe]


@pytest.mark.parametrize("door", ["ingress.enabled=true", "httpRoute.enabled=true,door.httpRoute.parents[0].name=front"])
def test_tls_ends_at_one_place(helm, door):
    both = options("gateway.tls.secretName=door-tls", f"door.host=api.example.com,door.{door}")
    assert "TLS ends at the gateways or in front of them" in helm.refusal("naru", *both)


@pytest.mark.parametrize("given", [[], ["gateway.tls.secretName=door-tls"]])
def test_pods_keep_to_the_restricted_standard(helm, given):
    for name, pod in pods(helm.template("naru", *options(*given))).items():
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 65532), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod), name
        assert all(set(volume) & {"emptyDir", "secret"} for volume in pod.get("volumes", [])), name


def test_the_gateway_has_no_token_and_no_role(helm):
    objects = helm.template("naru")
    assert pods(objects)["naru-gateway"]["automountServiceAccountToken"] is False
    assert all(account["automountServiceAccountToken"] is False for account in by_kind(objects, "ServiceAccount").values())
    bound = [
        subject["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for binding in by_kind(objects, kind).values()
        for subject in binding["subjects"]
    ]
    assert set(bound) == {"naru-operator"}


def test_no_role_is_broader_than_it_must_be(helm):
    objects = helm.template("naru")
    for kind in ("Role", "ClusterRole"):
        for role in by_kind(objects, kind).values():
            for rule in role["rules"]:
                assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], rule
                if "secrets" in rule["resources"] and "resourceNames" not in rule:
                    assert rule["verbs"] == ["create"], "secrets are read by name only"


def test_everything_is_in_the_namespace_of_the_release(helm):
    cluster = {"ClusterRole", "ClusterRoleBinding", "ValidatingWebhookConfiguration"}
    objects = helm.template("naru", *EVERYTHING, namespace="elsewhere")
    for found in objects:
        expected = None if found["kind"] in cluster else "elsewhere"
        assert found["metadata"].get("namespace") == expected, found["metadata"]["name"]
    [webhook] = by_kind(objects, "ValidatingWebhookConfiguration")["naru"]["webhooks"]
    assert webhook["clientConfig"]["service"]["namespace"] == "elsewhere"
    assert "--operator=naru-operators.elsewhere.svc:8001" in pods(objects)["naru-gateway"]["containers"][0]["args"]


def test_services_and_budgets_find_their_pods(helm):
    objects = helm.template("naru")
    for name, deployment in by_kind(objects, "Deployment").items():
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        assert by_kind(objects, "Service")[name]["spec"]["selector"].items() <= labels
        assert by_kind(objects, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"].items() <= labels
        names = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in by_kind(objects, "Service")[name]["spec"]["ports"]} <= names


def test_a_gateway_is_not_killed_before_it_has_finished(helm):
    gateway = pods(helm.template("naru", *options("gateway.drainSeconds=600")))["naru-gateway"]
    assert {"--leave-seconds=5", "--drain-seconds=600"} <= set(gateway["containers"][0]["args"])
    assert gateway["terminationGracePeriodSeconds"] > 605


def test_gateways_see_every_operator(helm):
    objects = helm.template("naru")
    service = by_kind(objects, "Service")["naru-operators"]["spec"]
    assert service["clusterIP"] == "None"
    labels = by_kind(objects, "Deployment")["naru-operator"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_images_are_never_a_strangers(helm):
    objects = helm.template("naru")
    version = yaml.safe_load((CHARTS / "naru/Chart.yaml").read_text())["appVersion"]
    images = {pod["containers"][0]["image"] for pod in pods(objects).values()}
    assert images == {f"localhost/naru/operator:{version}", f"localhost/naru/gateway:{version}"}
    assert f"--worker-image=localhost/naru/worker:{version}" in pods(objects)["naru-operator"]["containers"][0]["args"]


def test_images_come_from_where_the_values_say(helm):
    digest = "sha256:" + "0" * 64
    settings = [
        "image.registry=registry.example:5000/mirror", "image.tag=2.0", f"image.digests.worker={digest}",
        "image.pullSecrets={first,second}", "image.pullPolicy=Always",
    ]  # fmt: skip
    operator = pods(helm.template("naru", *options(*settings)))["naru-operator"]
    assert operator["imagePullSecrets"] == [{"name": "first"}, {"name": "second"}]
    [container] = operator["containers"]
    assert container["image"] == "registry.example:5000/mirror/naru/operator:2.0"
    assert f"--worker-image=registry.example:5000/mirror/naru/worker:2.0@{digest}" in container["args"]
    assert "--worker-image-pull-policy=Always" in container["args"]


@pytest.mark.parametrize("part", ["operator", "gateway"])
def test_pods_run_where_and_how_the_values_say(helm, part, tmp_path):
    wish = {
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "nodeSelector": {"pool": "front"},
        "tolerations": [{"key": "front", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "front",
        "podLabels": {"team": "x"},
        "podAnnotations": {"note": "why"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:1"}],
    }
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({part: wish}))
    deployment = by_kind(helm.template("naru", "-f", values), "Deployment")[f"naru-{part}"]
    template = deployment["spec"]["template"]
    for field in ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName"):
        assert template["spec"][field] == wish[field]
    [container] = template["spec"]["containers"]
    assert container["resources"] == wish["resources"]
    assert wish["extraEnv"][0] in container["env"]
    assert template["metadata"]["labels"]["team"] == "x"
    assert template["metadata"]["annotations"] == {"note": "why"}


def test_what_not_every_cluster_has_is_off_until_asked_for(helm):
    kinds = {found["kind"] for found in helm.template("naru")}
    asked_for = {"PodMonitor", "PrometheusRule", "ConfigMap", "Ingress", "HTTPRoute", "NetworkPolicy"}
    assert kinds.isdisjoint(asked_for)
    everything = helm.template("naru", *EVERYTHING)
    assert kinds | asked_for == {found["kind"] for found in everything}
    boards = by_kind(everything, "ConfigMap").values()
    assert len(boards) == len(list((CHARTS / "naru/dashboards").glob("*.json")))
    for board in boards:
        assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
        [text] = board["data"].values()
        assert json.loads(text)["panels"]


def test_both_doors_lead_to_the_gateways_by_one_name(helm):
    objects = helm.template("naru", *EVERYTHING, *options("gateway.service.port=8088", "door.ingress.tlsSecret=door"))
    [service] = by_kind(objects, "Service")["naru-gateway"]["spec"]["ports"]
    ingress = by_kind(objects, "Ingress")["naru-gateway"]["spec"]
    assert ingress["tls"] == [{"hosts": ["api.example.com"], "secretName": "door"}]
    [rule] = ingress["rules"]
    paths = rule["http"]["paths"]
    assert rule["host"] == "api.example.com"
    assert {path["backend"]["service"]["port"]["name"] for path in paths} == {service["name"]}
    route = by_kind(objects, "HTTPRoute")["naru-gateway"]["spec"]
    assert (route["hostnames"], route["parentRefs"]) == (["api.example.com"], [{"name": "front"}])
    [rule] = route["rules"]
    assert rule["backendRefs"] == [{"name": "naru-gateway", "port": service["port"]}]
    assert rule["timeouts"] == {"request": "1h"}, "of a stream to its end"
    assert [path["path"] for path in paths] == [match["path"]["value"] for match in rule["matches"]] == ["/v1", "/tokenize", "/detokenize"]


def test_a_door_with_nothing_said_leaves_it_to_who_stands_there(helm):
    objects = helm.template("naru", *EVERYTHING, *options("door.httpRoute.requestTimeout="))
    ingress = by_kind(objects, "Ingress")["naru-gateway"]["spec"]
    assert "ingressClassName" not in ingress
    assert ingress["tls"] == [{"hosts": ["api.example.com"]}], "TLS, with the controller's certificate"
    assert "timeouts" not in by_kind(objects, "HTTPRoute")["naru-gateway"]["spec"]["rules"][0]


@pytest.mark.parametrize("site", SITES)
def test_a_site_is_of_one_piece(helm, site):
    """Its values, and the objects beside them, tell of one zone, one namespace, one mirror."""
    rendered = helm.template("naru", of_site(site))
    folder = REPOSITORY / f"docs/examples/site-{site}"
    objects = [found for path in sorted(folder.glob("*.yaml")) for found in yaml.safe_load_all(path.read_text())]
    [budget], [model] = by_kind(objects, "PowerBudget").values(), by_kind(objects, "ModelDeployment").values()
    zone = {"topology.kubernetes.io/zone": each for each in model["spec"]["placement"]["zones"]}
    assert all(pod["nodeSelector"] == zone for pod in pods(rendered).values())
    assert model["spec"]["power"]["budget"] == budget["metadata"]["name"]
    assert set(model["spec"]["access"]["tenants"]) == set(by_kind(objects, "Tenant"))
    assert list(by_kind(objects, "Namespace")) == [model["metadata"]["namespace"]]
    assert by_kind(rendered, "NetworkPolicy")["naru-worker"]["metadata"]["namespace"] == model["metadata"]["namespace"]
    [mirror] = {pod["containers"][0]["image"].split("/")[0] for pod in pods(rendered).values()}
    [hub] = [each["value"] for each in model["spec"]["podTemplate"]["env"] if each["name"] == "HF_ENDPOINT"]
    assert hub.split("/")[2] == mirror
    keys = [key["sha256"] for tenant in by_kind(objects, "Tenant").values() for key in tenant["spec"]["keys"]]
    assert len(set(keys)) == len(keys), "a key of two tenants is nobody's"


def test_prometheus_accepts_the_rules(helm, promtool, tmp_path):
    [rule] = by_kind(helm.template("naru", *EVERYTHING), "PrometheusRule").values()
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(rule["spec"]))
    subprocess.run([promtool, "check", "rules", rules], check=True)


def test_every_alert_fires_when_it_should_and_only_then(promtool):
    tested = Path(__file__).with_name("alerts.yaml")
    done = subprocess.run([promtool, "test", "rules", tested], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [case for test in yaml.safe_load(tested.read_text())["tests"] for case in test["alert_rule_test"]]
    groups = yaml.safe_load((CHARTS / "naru/rules/naru.yaml").read_text())["groups"]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert firing == {rule["alert"] for group in groups for rule in group["rules"]}


def test_panels_and_rules_use_metrics_that_exist():
    reference = "\n".join(path.read_text() for path in (REPOSITORY / "docs/reference").glob("*metrics*.md"))
    known = set(re.findall(r"^\| `([a-z_:]+)`", reference, re.MULTILINE))
    used = {}
    for path in sorted((CHARTS / "naru/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                used[f"{path.name}: {panel['title']}"] = target["expr"]
    for group in yaml.safe_load((CHARTS / "naru/rules/naru.yaml").read_text())["groups"]:
        used |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    for where, expression in used.items():
        names = re.findall(r"\b(?:naru|process)_[a-z_]+", expression)
        assert names, where
        for name in names:
            assert {name, re.sub("_(bucket|sum|count)$", "", name)} & known, f"{where}: no metric {name}"


def test_the_notes_name_the_next_command():
    notes = (CHARTS / "naru/templates/NOTES.txt").read_text()
    assert "naru key create" in notes
    assert "kubectl wait --for=condition=Ready md/" in notes
