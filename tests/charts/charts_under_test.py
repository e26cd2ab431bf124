"""Helm, and what it makes of naru's charts."""

import subprocess
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CHARTS = REPOSITORY / "charts"
NAMESPACE = "naru-system"
EVERYTHING = [
    "--set=monitoring.podMonitors.enabled=true",
    "--set=monitoring.rules.enabled=true",
    "--set=monitoring.dashboards.enabled=true",
    "--set=door.host=api.example.com",
    "--set=door.ingress.enabled=true",
    "--set=door.httpRoute.enabled=true",
    "--set=door.httpRoute.parents[0].name=front",
    "--set=networkPolicies.enabled=true",
]
SITES = ["saudi", "thai"]


def of_site(site):
    """The option that gives the values of a site."""
    return f"--values={CHARTS / 'naru' / f'values-{site}.yaml'}"


class Helm:
    """The helm binary, asked for one thing at a time."""

    def __init__(self, binary):
        self.binary = binary

    def run(self, *arguments, check=True):
        done = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"helm {' '.join(map(str, arguments))}: {done.stderr}{done.stdout}"
        return done

    def template(self, chart, *options, namespace="naru-system"):
        """The objects that the chart renders to."""
        done = self.run("template", "naru", CHARTS / chart, "--namespace", namespace, *options)
        return [found for found in yaml.safe_load_all(done.stdout) if found]

    def refusal(self, chart, *options):
        """What helm says of values that the chart does not allow."""
        done = self.run("template", "naru", CHARTS / chart, *options, check=False)
        assert done.returncode != 0, f"{options} are allowed"
        return done.stderr
