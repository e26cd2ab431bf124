"""The charts against a real API server, with the neighbours' kinds in it."""

from pathlib import Path

import pytest
import yaml
from charts_under_test import CHARTS, EVERYTHING, NAMESPACE, REPOSITORY, SITES, of_site


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("options", [[], EVERYTHING], ids=["defaults", "everything"])
def test_the_api_server_takes_every_object(own_cluster, helm, options):
    rendered = helm.run("template", "naru", CHARTS / "naru", "--namespace", NAMESPACE, *options).stdout
    said = own_cluster.kubectl("apply", "--dry-run=server", "--filename=-", text=rendered)
    objects = [found for found in yaml.safe_load_all(rendered) if found]
    assert len(said.splitlines()) == len(objects)
    assert all(line.endswith("created (server dry run)") for line in said.splitlines()), said
    # Also by server-side apply, which refuses fields that its schema does not know.
    own_cluster.kubectl("apply", "--server-side", "--dry-run=server", "--filename=-", text=rendered)


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("site", SITES)
def test_the_api_server_takes_a_site(own_cluster, site):
    """In the order that docs/operating.md gives: its objects, which make the namespace of its workers, then the release."""
    folder = REPOSITORY / f"docs/examples/site-{site}"
    own_cluster.kubectl("apply", "--filename", folder)
    how = ["--namespace", NAMESPACE, of_site(site), "--dry-run=server"]
    said = own_cluster.helm("install", "naru", CHARTS / "naru", *how)
    assert f'curl https://api.{site}.example/v1/models -H "authorization: Bearer $KEY"' in said
    rendered = own_cluster.helm("template", "naru", CHARTS / "naru", "--namespace", NAMESPACE, of_site(site))
    own_cluster.kubectl("apply", "--server-side", "--dry-run=server", "--filename=-", text=rendered)
    own_cluster.kubectl("delete", "--filename", folder)


@pytest.mark.usefixtures("definitions")
def test_the_definitions_stay_when_their_release_goes(own_cluster):
    ours = {path.stem for path in (CHARTS / "naru-crds/files").glob("*.yaml")}
    own_cluster.helm("uninstall", "naru-crds", "--namespace", NAMESPACE, "--wait")
    names = own_cluster.kubectl("get", "crds", "--output=jsonpath={.items[*].metadata.name}").split()
    kept = {f"naru.dev_{name.removesuffix('.naru.dev')}" for name in names if name.endswith(".naru.dev")}
    assert kept == ours
    # The next installation finds them and takes them over.
    own_cluster.helm("install", "naru-crds", CHARTS / "naru-crds", "--namespace", NAMESPACE, "--wait")


def test_plain_kubectl_takes_the_definitions_too(own_cluster):
    for path in sorted((CHARTS / "naru-crds/files").glob("*.yaml")):
        own_cluster.kubectl("apply", "--filename", path)
        for wanted in ("Established", "NamesAccepted"):
            name = yaml.safe_load(Path(path).read_text())["metadata"]["name"]
            own_cluster.kubectl("wait", f"--for=condition={wanted}", f"crd/{name}", "--timeout=30s")


EXAMPLES = ["gpu", "many-members", "one-partner", "power-budget", "saudi-and-thai", "smollm2", "without-internet"]


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_api_server_takes_the_examples(own_cluster, name):
    objects = list(yaml.safe_load_all((REPOSITORY / f"docs/examples/{name}.yaml").read_text()))
    # A dry run does not make the namespaces that what follows is in.
    namespaces = [found for found in objects if found["kind"] == "Namespace"]
    for found in namespaces:
        own_cluster.kubectl("apply", "--filename=-", text=yaml.safe_dump(found))
    wishes = yaml.safe_dump_all(found for found in objects if found["kind"] != "Namespace")
    said = own_cluster.kubectl("apply", "--server-side", "--dry-run=server", "--filename=-", text=wishes)
    assert len(said.splitlines()) == len(objects) - len(namespaces)
    for found in namespaces:
        own_cluster.kubectl("delete", "namespace", found["metadata"]["name"])
