"""Weights from every kind of place inside the cluster, one fetch for two pods, and what conditions say of trouble."""

import json

import places
import pytest
import serving
import stores
from platform_under_test import MODEL, NAMESPACE, deployment
from release import operators, until_one_leads
from serving import until

CLASS = "shared-on-node"
TRUST = "trust-places"
ENDPOINT = f"https://{places.BUCKETS}"

pytestmark = [pytest.mark.control, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def platform(naru, cluster, tmp_path_factory):
    """naru with a claim of each namespace for weights, and the places that weights come from."""
    directory = tmp_path_factory.mktemp("sources")
    naru.places = places.Places(cluster, directory)
    trust = directory / "places.pem"
    trust.write_text(naru.places.serve())
    naru.kubectl("create", "configmap", TRUST, f"--from-file=ca.crt={trust}", f"--namespace={NAMESPACE}")
    naru.upgrade(
        f"--set=weights.cache.storageClassName={CLASS}", "--set=weights.cache.size=1Gi",
        f"--set=weights.env.AWS_ENDPOINT_URL={ENDPOINT}", f"--set=weights.env.AWS_REGION={stores.REGION}",
    )  # fmt: skip
    # The one of before, which knows nothing of it, may lead a little longer.
    until(lambda: len(operators(naru)) == 1, "one operator is left")
    until_one_leads(naru)
    give_volumes(naru, directory)
    give_secrets(naru)
    yield naru
    for name in naru.get("md")["items"]:
        if name["metadata"]["name"] != MODEL:  # left by a test that failed
            take_away(naru, name["metadata"]["name"])
    naru.upgrade("--set=weights.cache.storageClassName=", "--set=weights.env=null")
    naru.kubectl("delete", "namespace", places.NAMESPACE, "--timeout=120s")
    naru.kubectl("delete", "pvc", "models", "naru-weights", f"--namespace={NAMESPACE}", "--ignore-not-found")
    naru.kubectl("delete", "persistentvolume", "weights-cache", "weights-models", "--timeout=60s")


def give_volumes(platform, directory):
    """What a provisioner would do: a volume for the claim that the operator makes, and one with a model in it."""
    cache = directory / "cache"
    cache.mkdir()
    cache.chmod(0o777)  # a volume on a node's disk is not given to the pod's group
    models = serving.model(serving.SMOLLM2).parent
    platform.apply(
        volume("weights-cache", CLASS, cache, "ReadWriteMany"), volume("weights-models", "", models, "ReadOnlyMany"),
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models", "namespace": NAMESPACE},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "volumeName": "weights-models",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    )  # fmt: skip


def volume(name, storage_class, path, mode):
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": [mode],
            "storageClassName": storage_class,
            "hostPath": {"path": str(path)},
        },
    }


def give_secrets(platform):
    login = stores.docker_config(places.REGISTRY)
    keys = {"AWS_ACCESS_KEY_ID": stores.KEY, "AWS_SECRET_ACCESS_KEY": stores.SECRET}
    platform.apply(
        secret("registry", {".dockerconfigjson": login}, "kubernetes.io/dockerconfigjson"),
        secret("bucket", keys, "Opaque"),
        secret("wrong-key", keys | {"AWS_SECRET_ACCESS_KEY": "wrong"}, "Opaque"),
    )


def secret(name, content, kind):
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "stringData": content}


def wished(name, uri, secret=None, sha256=None, node=None, **spec):
    """A model deployment that trusts the places."""
    trusting = {
        "env": [{"name": "SSL_CERT_FILE", "value": "/etc/trust/ca.crt"}],
        "volumes": [{"name": "trust", "mountPath": "/etc/trust", "configMap": {"name": TRUST}}],
    }
    wish = deployment(name, uri, trusting, **spec)
    model = wish["spec"]["model"]
    model |= {key: value for key, value in (("secretName", secret), ("sha256", sha256)) if value}
    if node:
        wish["spec"]["podTemplate"] |= {"nodeSelector": {"kubernetes.io/hostname": node}}
    return wish


def take_away(platform, name):
    platform.kubectl("delete", f"md/{name}", f"--namespace={NAMESPACE}", "--timeout=90s")
    until(lambda: not platform.pods(name), f"{name} is gone", 90)


def test_two_pods_of_a_node_fetch_an_artifact_once(platform):
    platform.apply(wished("artifact", places.ARTIFACT, secret="registry", node="node1", replicas=2))
    platform.until_replicas(2, "artifact", 150)
    assert platform.ask(model="artifact").status_code == 200
    nodes = {pod["spec"]["nodeName"] for pod in platform.pods("artifact")}
    assert nodes == {"node1"}
    assert platform.places.blob_bytes() == serving.model(serving.SMOLLM2).stat().st_size
    assert weights_of(platform, "artifact")["status"] == "True"
    # A later replica, and a later deployment, find it there.
    take_away(platform, "artifact")
    platform.apply(wished("artifact", places.ARTIFACT, secret="registry", node="node1"))
    platform.wait_ready("artifact")
    assert platform.places.blob_bytes() == serving.model(serving.SMOLLM2).stat().st_size
    take_away(platform, "artifact")


def test_an_object_of_a_bucket_is_served(platform):
    platform.apply(wished("object", places.OBJECT, secret="bucket"))
    platform.wait_ready("object")
    assert platform.ask(model="object").status_code == 200
    [pod] = platform.pods("object")
    assert stores.SECRET not in json.dumps(pod), "the key is in the Secret alone"
    take_away(platform, "object")


def test_weights_of_a_claimed_volume_are_served_in_place(platform):
    platform.apply(wished("claimed", f"pvc://models/{serving.SMOLLM2}"))
    platform.wait_ready("claimed")
    assert platform.ask(model="claimed").status_code == 200
    [pod] = platform.pods("claimed")
    mounts = {mount["name"]: mount for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["naru-weights"]["readOnly"]
    take_away(platform, "claimed")


def test_each_trouble_with_weights_has_a_reason_and_a_way_out(platform):
    wishes = {
        "stranger": (wished("stranger", places.ARTIFACT), "WeightsUnauthorized", "401"),
        "wrong-key": (wished("wrong-key", places.FOLDER, secret="wrong-key"), "WeightsUnauthorized", "403"),
        "nowhere": (wished("nowhere", places.ARTIFACT + "9", secret="registry"), "WeightsMissing", "404"),
        "nobody": (wished("nobody", "https://nobody.invalid/m.gguf"), "WeightsUnreachable", "not known"),
        "other": (wished("other", places.OBJECT, secret="bucket", sha256="0" * 64), "WeightsCorrupt", "SHA-256"),
        "unknown": (wished("unknown", places.FOLDER, secret="nobody"), "WeightsUnauthorized", "403"),
    }
    platform.apply(*(wish for wish, _, _ in wishes.values()))
    for name, (_, reason, words) in wishes.items():
        condition = until(lambda name=name, reason=reason: has(platform, name, reason), f"{name}: {reason}", 150)
        assert condition["status"] == "False" and words in condition["message"], condition
        assert "try: kubectl" in condition["message"], condition
    # The way out of the first, as its row of the table says.
    platform.apply(wished("stranger", places.ARTIFACT, secret="registry"))
    platform.wait_ready("stranger")
    for name in wishes:
        take_away(platform, name)


def has(platform, name, reason):
    condition = weights_of(platform, name)
    return condition if condition and condition["reason"] == reason else None


def weights_of(platform, name):
    """The condition about the weights of a model deployment, or nothing yet."""
    conditions = platform.status(name).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "WeightsAvailable"), None)
