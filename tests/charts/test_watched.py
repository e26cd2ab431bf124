"""What Prometheus and Grafana get to see of a release that answers, as the chart has them look."""

import json
import re
import subprocess
import threading

import httpx
import pytest
import reference
import yaml
from charts_under_test import CHARTS, NAMESPACE
from scraping import Prometheus
from serving import until

pytestmark = pytest.mark.control

WINDOW = "10s"
"""What Grafana puts for $__rate_interval: some scrapes."""

HEADINGS = {
    "naru-operator": "`naru operator`",
    "naru-gateway": "`naru gateway`, besides those of `naru up`",
    "naru-worker": "`naru-worker`, besides those that it has everywhere",
}
PARTS = tuple(HEADINGS)
HOW = 'UPDATE=1 make clients PYTEST="-k the_reference_lists"'
INTRODUCTION = f"""# Metrics on Kubernetes

Generated from running pods: `{HOW}`. What gateways and workers export everywhere is in [metrics.md](metrics.md).
"""


@pytest.fixture(scope="module")
def prometheus(release, tools, tmp_path_factory):
    """A Prometheus that scrapes what the release's monitors say, while requests come and replicas change."""
    monitors = json.loads(release.cluster.kubectl("get", "podmonitors", f"--namespace={NAMESPACE}", "--output=json"))
    [rule] = json.loads(release.cluster.kubectl("get", "prometheusrules", f"--namespace={NAMESPACE}", "--output=json"))["items"]
    directory = tmp_path_factory.mktemp("prometheus")
    rules = directory / "rules.yaml"
    rules.write_text(yaml.safe_dump(rule["spec"]))
    binary = tools.for_people()["prometheus"]
    running = Prometheus(binary, directory, monitors["items"], rules)
    enough = threading.Event()
    threads = [threading.Thread(target=task) for task in (
        lambda: keep_busy(release, enough),
        lambda: keep_told(release, running, enough),
    )]  # fmt: skip
    for thread in threads:
        thread.start()
    yield running
    enough.set()
    for thread in threads:
        thread.join()
    running.stop()


def keep_told(release, prometheus, enough):
    """Of the pods that there are."""
    while not enough.wait(0.5):
        said = release.cluster.kubectl("get", "pods", "--all-namespaces", "--output=json")
        prometheus.discover(json.loads(said)["items"])


def keep_busy(release, enough):
    """Some of everything: answers, refusals, and decisions about replicas."""
    while not enough.is_set():
        for replicas in (2, 1):
            release.scale("moving", replicas)
            for number in range(10):
                release.ask(prompt=f"What is {number} and {number}, and why would anybody ask for it again?")
                release.ask(model="moving")
            release.ask(key="naru_" + "x" * 43)


COMING_AND_GOING = "moving-"
"""What the names of those pods begin with of which the load has now more, now fewer."""


def pods(release, part):
    """The pods of one part of naru, wherever they are, that stay."""
    selector = f"--selector=app.kubernetes.io/name={part}"
    found = json.loads(release.cluster.kubectl("get", "pods", "--all-namespaces", selector, "--output=json"))["items"]
    return [pod for pod in found if not pod["metadata"]["name"].startswith(COMING_AND_GOING)]


def pages(release, part):
    """Where the metrics of each of its pods are."""
    return [f"http://{pod['status']['podIP']}:9090/metrics" for pod in pods(release, part)]


def test_what_the_monitors_name_is_scraped_and_nothing_else(release, prometheus):
    jobs = {part: f"{NAMESPACE}/{'naru-workers' if part == 'naru-worker' else 'naru'}" for part in PARTS}
    there = [(pod["metadata"], job) for part, job in jobs.items() for pod in pods(release, part)]
    expected = {(metadata["namespace"], metadata["name"], job): "up" for metadata, job in there}
    assert len(expected) == 4

    def found():
        targets = prometheus.targets().items()
        return {place: health for place, health in targets if not place[1].startswith(COMING_AND_GOING)}

    until(lambda: found() == expected, "every pod is scraped", 30)


def panels():
    for path in sorted((CHARTS / "naru/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                name = f"{path.stem}: {panel['title']}: {target['legendFormat']}"
                yield pytest.param(target["expr"].replace("$__rate_interval", WINDOW), id=name)


@pytest.mark.parametrize("expression", list(panels()))
def test_every_panel_shows_a_value(prometheus, expression):
    """A number, and not NaN, which is what a quantile of nothing is."""
    until(lambda: any(value == value for value in prometheus.values(expression)), expression, 60)


def test_no_alert_fires_while_all_is_well(prometheus):
    written = yaml.safe_load((CHARTS / "naru/rules/naru.yaml").read_text())["groups"]
    names = {rule["alert"] for group in written for rule in group["rules"]}
    found = until(lambda: prometheus.alerts(), "the rules were looked at")
    assert set(found) == names
    assert all(error == "" for _, error in found.values()), found
    assert not [name for name, (state, _) in found.items() if state == "firing"], found


@pytest.mark.parametrize("part", PARTS)
def test_promtool_accepts_every_page(release, promtool, part):
    for page in pages(release, part):
        text = httpx.get(page).raise_for_status().text
        said = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        faults = (said.stdout + said.stderr).splitlines()
        # Endpoint pickers look for these names, which have the colon.
        faults = [line for line in faults if not re.fullmatch(r"vllm:\w+ metric names should not contain ':'", line)]
        assert not faults, f"{page}: {faults}"


def test_the_reference_lists_what_pods_export_and_nothing_else(release, prometheus):
    known = reference.written("metrics.md")
    everywhere = {
        "naru-operator": {},
        "naru-gateway": known["`naru up`"],
        "naru-worker": known["`naru-worker`"] | known["`naru-worker --backend sim`, besides those"],
    }
    # The load has refused somebody by then.
    until(lambda: prometheus.values("naru_gateway_refusals_total"), "a refusal")
    found = {part: {} for part in PARTS}
    for part in PARTS:
        for page in pages(release, part):
            found[part] |= reference.described(page)
    for part, rows in everywhere.items():
        assert rows.items() <= found[part].items(), f"{part} does not export {rows.keys() - found[part].keys()}"
    extra = {part: {n: row for n, row in found[part].items() if n not in everywhere[part]} for part in PARTS}
    parts = {HEADINGS[part]: rows for part, rows in extra.items()}
    reference.compare("operator-metrics.md", INTRODUCTION, parts, HOW)
