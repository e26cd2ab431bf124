"""The definitions of the neighbours' kinds that the chart makes objects of, as their makers publish them."""

import json
import subprocess
from pathlib import Path

MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
KINDS = ["podmonitors", "prometheusrules"]


def prometheus_operator(go):
    """Paths of the Prometheus operator's definitions, out of its Go module, which is fetched once (4 MB)."""
    done = subprocess.run([go, "mod", "download", "-json", MODULE], cwd="/", capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    assert "Dir" in found, f"go could not fetch {MODULE}: {found.get('Error', done.stderr)}"
    assert found["Sum"] == SUM, f"{MODULE} is not what it was"
    folder = Path(found["Dir"]) / "example/prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in KINDS]
