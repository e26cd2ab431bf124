"""Every fault that docs/operating.md lists, on a real cluster: what its condition says, and that the way out is one."""

import contextlib
import hashlib
import json
import re

import faults
import httpx
import pytest
import serving
from fault_table import commands, matches
from faults import CROWDED, FAULTS, FULL, GPU, LACKING, NAMESPACE, NODE, ON_ONE_MACHINE, STRICT, shown
from release import operators, until_one_leads
from serving import until

pytestmark = [pytest.mark.control, pytest.mark.timeout(300)]

CLASS = "faults-cache"
NAMESPACES = (NAMESPACE, FULL, CROWDED, STRICT)
MENDED = [fault for fault in FAULTS if fault.mend is not None]
RULES = (
    {"kind": "ResourceQuota", "metadata": {"name": "rule", "namespace": CROWDED}, "spec": {"hard": {"pods": "0"}}},
    {
        "kind": "LimitRange",
        "metadata": {"name": "rule", "namespace": STRICT},
        "spec": {"limits": [{"type": "Container", "min": {"memory": "1Gi"}}]},
    },
)


@pytest.fixture(scope="module")
def faulty(naru, cluster, tmp_path_factory):
    """All of them at once, but for what is only done to them when they are looked for."""
    naru.directory = tmp_path_factory.mktemp("faults")
    prepare(naru, cluster)
    naru.apply(*(wish for fault in FAULTS for wish in reversed(fault.wishes())))
    yield naru
    take_away(naru, cluster)


def prepare(naru, cluster):
    """Weights are kept where a test can look, on one disk that is small; the webhook does not stop what is faulty."""
    naru.kubectl("cordon", faults.HARMED)  # the operator is not to go with it
    naru.upgrade(
        f"--set=weights.cache.storageClassName={CLASS}", "--set=weights.cache.size=1Gi", "--set=webhook.enabled=false"
    )
    naru.kubectl("uncordon", faults.HARMED)
    until_only_one_leads(naru)
    trust = naru.directory / "ca.crt"
    trust.write_text(naru.authority)
    for namespace in NAMESPACES:
        folder = naru.directory / namespace
        folder.mkdir()
        folder.chmod(0o777)
        naru.make_namespace(namespace)
        naru.apply(volume(namespace, folder))
        naru.kubectl("create", "configmap", "trust", f"--from-file={trust}", f"--namespace={namespace}")
    disk = ("mount", "-t", "tmpfs", "-o", "size=16m,mode=777", "tmpfs", naru.directory / FULL)
    cluster.nodes[NODE].machine.run(*disk)
    naru.apply(
        *({"apiVersion": "v1"} | rule for rule in RULES),
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": LACKING}, "handler": LACKING},
    )
    naru.count_devices(NODE, GPU, "4")


def until_only_one_leads(naru):
    """The one of before, which knows nothing of other values, may lead a little longer."""
    until(lambda: len(operators(naru)) == 1, "one operator is left")
    until_one_leads(naru)


def volume(namespace, folder):
    """What a provisioner would make for the claim of a namespace."""
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "naru-weights", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"cache-{namespace}"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": CLASS,
            "hostPath": {"path": str(folder)}, "claimRef": claim,
        },
    }  # fmt: skip


def take_away(naru, cluster):
    for namespace in NAMESPACES:
        naru.kubectl("delete", "md", "--all", f"--namespace={namespace}", "--wait=false")
    naru.kubectl("delete", "powerbudgets", "--all")
    naru.kubectl("delete", "namespace", *NAMESPACES, "--timeout=120s")
    naru.kubectl("delete", "persistentvolume", *(f"cache-{namespace}" for namespace in NAMESPACES), "--timeout=60s")
    naru.kubectl("delete", "runtimeclass", LACKING)
    naru.count_devices(NODE, GPU, None)
    with contextlib.suppress(Exception):  # gone with the node, if a test left that off
        cluster.nodes[NODE].machine.run("umount", naru.directory / FULL)
    naru.upgrade("--set=weights.cache.storageClassName=", "--set=webhook.enabled=true")
    until_only_one_leads(naru)
    naru.wait_ready()


def condition(naru, called, namespace, kind):
    found = naru.status(called, namespace).get("conditions", [])
    return next((each for each in found if each["type"] == kind), None)


def says(naru, fault):
    """The condition, if it gives the reason."""
    found = condition(naru, *shown(fault), fault.kind)
    return found if found and found["reason"] == fault.reason else None


def test_the_condition_says_how_far_a_fetch_is(faulty):
    faulty.apply(faults.loading("progress", faults.from_server(f"slow/{faults.MODEL}")))

    def far():
        found = condition(faulty, "progress", NAMESPACE, "WeightsAvailable")
        how_far = re.match(r"weights are on their way: (\d+) % of 98 MB", found["message"]) if found else None
        return how_far and 0 < int(how_far[1]) < 100 and found

    found = until(far, "part of the weights is there", 90)
    assert (found["status"], found["reason"]) == ("Unknown", "Fetching"), found
    faulty.wait_ready("progress", namespace=NAMESPACE)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_says_what_is_wrong_and_what_to_do(faulty, fault):
    called, namespace = shown(fault)
    fault.provoke(faulty)
    # Some come and go with each start of a worker.
    found = until(lambda: says(faulty, fault), f"{called}: {fault.reason}", 120)
    assert found["status"] == fault.status, found
    message, _, command = found["message"].partition("; try: ")
    assert matches(fault.message, message), message
    assert command == commands()[fault.reason].replace("NAMESPACE", namespace).replace("NAME", called), command
    if fault.kind == "WeightsAvailable":
        assert nobody_answers(faulty, called), "what is not whole is not served"


@pytest.fixture(scope="module")
def mended(faulty):
    """The way out of each, taken at once."""
    for fault in reversed(MENDED):
        fault.mend(faulty)
    return faulty


@pytest.mark.parametrize("fault", MENDED, ids=lambda fault: fault.id)
def test_the_way_out_is_one(mended, fault):
    called, namespace = shown(fault)
    condition_of = f"--for=condition={fault.kind}"
    mended.kubectl("wait", condition_of, f"md/{called}", f"--namespace={namespace}", "--timeout=200s")
    mended.wait_ready(called, 200, namespace)


def nobody_answers(naru, called):
    """Gateways hold requests for a model that may come; meanwhile there is no answer."""
    try:
        return naru.ask(model=called, timeout=1).status_code == 503
    except httpx.TimeoutException:
        return True


def test_of_weights_only_whole_files_are_kept(faulty):
    """What broke off is under another name, and what was half a file when it came is gone."""
    names = ("weightscorrupt-half", "weightsunreachable-cut")
    faulty.kubectl("delete", "md", *names, f"--namespace={NAMESPACE}", "--ignore-not-found", "--timeout=60s")
    for called in names:
        until(lambda called=called: not faulty.pods(called, NAMESPACE), f"{called} is gone", 60)
    kept = [path for path in (faulty.directory / NAMESPACE).rglob("*.gguf") if not path.name.startswith(".")]
    assert kept, "what was whole is there"
    for path in kept:
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == faults.DIGEST, path


def test_a_machine_that_is_too_small_says_so(tmp_path):
    """The one that only `naru up` knows; its log tells every condition that changes."""
    fault = ON_ONE_MACHINE
    wish = tmp_path / "wish.json"
    wish.write_text(json.dumps(fault.wishes()[0]))
    command = [
        serving.BINARIES / "naru", "up", "-f", wish, "--listen", serving.free_address(),
        "--ops-listen", serving.free_address(), "--data-dir", tmp_path / "data",
    ]  # fmt: skip
    up = serving.Process(command, tmp_path, "up")

    def told():
        lines = [json.loads(line) for line in up.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("kind") == fault.kind and line.get("reason") == fault.reason]

    try:
        said = until(told, "the reason", 30)[0]
    finally:
        assert up.stop() == 0, up.log_tail()
    assert said["status"] == fault.status and matches(fault.message, said["message"]), said
    assert commands()[fault.reason] == ""
