"""What the definitions refuse and take on a real API server: the same rows that `naru up` is held to."""

from pathlib import Path

import pytest
import yaml
from cluster.failure import Failed

HERE = Path(__file__).resolve().parent
CHART = HERE.parents[1] / "charts/naru-crds"
ROWS = yaml.safe_load((HERE / "refused.yaml").read_text())
# Asks the API server and nobody else: kubectl would check the schema itself, in words of its own.
DRY_RUN = ("apply", "--dry-run=server", "--validate=ignore", "--filename=-")
ACCEPTED = (HERE / "accepted.yaml").read_text()


@pytest.fixture(scope="module")
def server(cluster):
    """A cluster that has the definitions."""
    release = ("naru-crds", CHART, "--namespace", "naru-system", "--create-namespace")
    cluster.helm("upgrade", "--install", *release, "--wait")
    kinds = [f"crd/{path.stem.removeprefix('naru.dev_')}.naru.dev" for path in CHART.glob("files/*.yaml")]
    cluster.kubectl("wait", "--for=condition=Established", *kinds, "--timeout=30s")
    return cluster


@pytest.mark.parametrize("row", ROWS, ids=[row["fact"] for row in ROWS])
def test_refused(server, row):
    with pytest.raises(Failed) as refusal:
        server.kubectl(*DRY_RUN, text=yaml.safe_dump(row["object"]))
    words = str(refusal.value)
    assert f"{row['object']['kind']} \"{row['object']['metadata']['name']}\" is invalid" in words
    assert f"{row['path'] or '<nil>'}: " in words
    assert row["message"] in words


def test_accepted(server):
    said = server.kubectl(*DRY_RUN, text=ACCEPTED)
    assert said.count("created (server dry run)") == 5, said


def test_defaults_are_filled_in(server):
    small = {
        "apiVersion": "naru.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "small"},
        "spec": {"model": {"uri": "file:///m.gguf"}, "scaling": {"maxReplicas": 2}},
    }
    asked = ("create", "--dry-run=server", "--output=yaml", "--filename=-")
    spec = yaml.safe_load(server.kubectl(*asked, text=yaml.safe_dump(small)))["spec"]
    assert spec["replicas"] == 1
    assert spec["backend"] == "cpu"
    assert spec["engine"]["maxSequences"] == 64
    assert spec["scaling"] == {
        "minReplicas": 1,
        "maxReplicas": 2,
        "targets": {"queuedTokensPerReplica": 8192},
        "idleSecondsBeforeZero": 600,
    }


FIELDS = ["spec.accelerator.product", "spec.scaling.maxReplicas", "spec.podTemplate", "status.scaling.reason"]


@pytest.mark.parametrize("field", FIELDS)
def test_explain_tells_what_a_field_is(server, field):
    told = server.kubectl("explain", f"md.{field}")
    assert "DESCRIPTION:" in told and "<empty>" not in told
