"""The charts beside those of the last release: definitions and values only ever grow, and the check sees where not."""

import copy
import json
import re
from pathlib import Path

import additive
import package
import pytest
import released
import yaml
from charts_under_test import CHARTS

# What breaks with the last release on purpose: the line that the check says, and why nobody is harmed by it.
ON_PURPOSE = {}

ROWS = yaml.safe_load(Path(__file__).with_name("additive.yaml").read_text())
NAMES = {"md": "modeldeployments.naru.dev", "tenant": "tenants.naru.dev", "budget": "powerbudgets.naru.dev"}


def definitions(texts):
    return {found["metadata"]["name"]: found for found in map(yaml.safe_load, texts)}


def contract(charts):
    """What users rely on, of charts as {name: {path: text}}: definitions by name, and what values may be."""
    found = definitions(text for path, text in charts["naru-crds"].items() if path.startswith("files/"))
    schemas = {chart: json.loads(files["values.schema.json"]) for chart, files in charts.items()}
    return found | {"values": schemas["naru"], "values of naru-crds": schemas["naru-crds"]}


def faults(old, new):
    values = [name for name in old if name.startswith("values")]
    yield from additive.definitions({name: each for name, each in old.items() if name not in values}, new)
    for name in values:
        yield from additive.values(name, old[name], new[name])


def read(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def old():
    """The contract of the last release."""
    return contract({chart: released.read(chart) for chart in released.CHARTS})


def test_what_was_taken_is_taken_and_means_the_same(old):
    found = list(faults(old, contract({chart: read(CHARTS / chart) for chart in released.CHARTS})))
    assert set(found) - set(ON_PURPOSE) == set(), "an object, a program or values of the last release break by this"
    assert set(ON_PURPOSE) - set(found) == set(), "this does not break it any more"


@pytest.mark.parametrize("row", ROWS, ids=[row["fact"] for row in ROWS])
def test_the_check_names_what_breaks_and_nothing_else(old, row):
    old = copy.deepcopy(old)
    make(row.get("before", {"at": "md"}), old)
    new = copy.deepcopy(old)
    for change in (row, *row.get("and", [])):
        make(change, new)
    expected = [re.sub("^md(?=[.:])", f"{NAMES['md']}/v1alpha1", fault) for fault in row.get("faults", [])]
    found = list(faults(old, new))
    assert len(found) == len(expected), found
    for said, fault in zip(found, expected, strict=True):
        assert said.startswith(fault[:-1]) if fault.endswith("…") else said == fault


def make(change, new):
    """Makes a change of the table."""
    place = within(new, change["at"])
    for key in change.get("drop", []):
        del place[key]
    for key, value in change.get("set", {}).items():
        place.insert(key, value) if isinstance(place, list) else place.update({key: value})
    if "rule" in change:
        place.setdefault("x-kubernetes-validations", []).append({"rule": change["rule"], "message": "no"})


def within(new, path):
    """The place at a path of the table."""
    names, _, rest = path.partition("/")
    kind, *names = names.replace("[]", ".[]").split(".")
    place = new[NAMES.get(kind, kind)] if kind else new
    if kind in NAMES:
        place = place["spec"]
        if names or "/" not in path:
            place = place["versions"][0]["schema"]["openAPIV3Schema"]
    for name in names:
        inside = {"[]": "items", "*": "additionalProperties"}.get(name)
        place = place[inside] if inside else place["properties"][name]
    for name in filter(None, rest.split(".")):
        place = place[int(name) if isinstance(place, list) else name]
    return place


def test_values_files_of_the_last_release_are_taken(helm, tmp_path):
    files = released.read("naru")
    names = [name for name in files if re.fullmatch(r"values(-\w+)?\.yaml", name)]
    for name in names:
        (tmp_path / name).write_text(files[name])
        assert helm.template("naru", "--values", tmp_path / name), name
    assert "values.yaml" in names


def test_the_last_release_is_an_earlier_one(helm):
    present = yaml.safe_load((CHARTS / "naru/Chart.yaml").read_text())["version"]
    for chart in released.CHARTS:
        found = yaml.safe_load(helm.run("show", "chart", released.package(chart)).stdout)
        assert (found["name"], found["version"], found["appVersion"]) == (chart, released.version(), released.version())
    assert numbers(released.version()) < numbers(present), "charts/released holds what was released before"


def numbers(version):
    """By which versions are in order; of a release three numbers, before it MAJOR.MINOR.PATCH-dev."""
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(-dev)?", version)
    return (*map(int, found.groups()[:3]), found[4] is None)


@pytest.mark.parametrize("chart", released.CHARTS)
def test_a_chart_is_packed_the_same_every_time(helm, chart, tmp_path):
    first, again = (package.package(CHARTS / chart, tmp_path / out) for out in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()
    assert helm.run("template", "x", first).stdout == helm.run("template", "x", CHARTS / chart).stdout
