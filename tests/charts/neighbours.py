"""The definitions of the neighbours' kinds that the chart makes objects of, as their makers publish them."""

import dataclasses
import json
import subprocess
from pathlib import Path


@dataclasses.dataclass
class Neighbour:
    """A Go module, fetched once and checked, and the files in it that define the kinds."""

    module: str
    sum: str
    files: list[str]

    def definitions(self, go):
        """Where they are."""
        command = [go, "mod", "download", "-json", self.module]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        found = json.loads(done.stdout or "{}")
        assert "Dir" in found, f"go could not fetch {self.module}: {found.get('Error', done.stderr)}"
        assert found["Sum"] == self.sum, f"{self.module} is not what it was"
        return [Path(found["Dir"]) / file for file in self.files]


PROMETHEUS_OPERATOR = Neighbour(
    "github.com/prometheus-operator/prometheus-operator@v0.85.0",
    "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
    [f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml" for kind in ("podmonitors", "prometheusrules")],
)
GATEWAY_API = Neighbour(
    "sigs.k8s.io/gateway-api@v1.3.0",
    "h1:q6okN+/UKDATola4JY7zXzx40WO4VISk7i9DIfOvr9M=",
    ["config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"],
)


def definitions(go):
    """Paths of them all."""
    return [path for neighbour in (PROMETHEUS_OPERATOR, GATEWAY_API) for path in neighbour.definitions(go)]
