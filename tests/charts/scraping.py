"""A running Prometheus that scrapes what the chart's PodMonitors say, as the Prometheus operator would have it do.

Debian's Prometheus is built without the discovery of Kubernetes; it is told of the pods by a file, in the same words.
"""

import json
import re

import httpx
import serving
import yaml

META = "__meta_kubernetes_"
ENDED = "Failed|Succeeded"


class Prometheus(serving.Process):
    """Prometheus on this machine, with the chart's monitors and rules."""

    def __init__(self, binary, directory, monitors, rules):
        address = serving.free_address()
        self.url = f"http://{address}"
        self.pods = directory / "pods.json"
        file = directory / "prometheus.yaml"
        jobs = [job for monitor in monitors for job in scrape_configs(monitor, self.pods)]
        settings = {"evaluation_interval": "1s"}
        file.write_text(yaml.safe_dump({"global": settings, "rule_files": [str(rules)], "scrape_configs": jobs}))
        command = [
            binary, f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}",
        ]  # fmt: skip
        super().__init__(command, directory, "prometheus")
        serving.until(self._is_ready, "Prometheus is ready", 30)

    def discover(self, pods):
        """Tells it which pods there are now."""
        new = self.pods.with_suffix(".new")
        new.write_text(json.dumps([target for pod in pods for target in targets(pod)]))
        new.replace(self.pods)

    def _is_ready(self):
        assert self.child.poll() is None, f"it ended; the log ends:\n{self.log_tail()}"
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _get(self, what, **query):
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=query, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def targets(self):
        """What is scraped: (namespace, pod, job) and whether it was well the last time."""
        found = self._get("targets", state="active")["activeTargets"]
        return {tuple(each["labels"][name] for name in ("namespace", "pod", "job")): each["health"] for each in found}

    def values(self, expression):
        """What an expression is now, one number for each series."""
        return [float(each["value"][1]) for each in self._get("query", query=expression)["result"]]

    def alerts(self):
        """The state of each alert, and what went wrong in finding it out."""
        groups = self._get("rules")["groups"]
        return {rule["name"]: (rule["state"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}


def targets(pod):
    """What the discovery of Kubernetes (role: pod) says of a pod: each port of its containers is a target."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    own = {"namespace": metadata["namespace"], "pod_name": metadata["name"], "pod_phase": status["phase"]}
    own |= {f"pod_label_{sane(label)}": value for label, value in metadata.get("labels", {}).items()}
    for container in spec["containers"] if "podIP" in status else ():
        for port in container.get("ports", ()):
            labels = own | {"pod_container_name": container["name"], "pod_container_port_name": port.get("name", "")}
            yield {
                "targets": [f"{status['podIP']}:{port['containerPort']}"],
                "labels": {f"{META}{name}": value for name, value in labels.items()},
            }


def scrape_configs(monitor, pods):
    """What the Prometheus operator makes of a PodMonitor, of those of its fields that the chart uses."""
    metadata, spec = monitor["metadata"], monitor["spec"]
    anywhere = spec.get("namespaceSelector", {}).get("any", False)
    selector = [(key, [value]) for key, value in spec["selector"].get("matchLabels", {}).items()]
    for each in spec["selector"].get("matchExpressions", ()):
        assert each["operator"] == "In", each
        selector.append((each["key"], each["values"]))
    for endpoint in spec["podMetricsEndpoints"]:
        keep = [("pod_container_port_name", endpoint["port"])]
        keep += [] if anywhere else [("namespace", metadata["namespace"])]
        keep += [(f"pod_label_{sane(key)}", "|".join(map(re.escape, values))) for key, values in selector]
        labels = [("namespace", "namespace"), ("pod_name", "pod"), ("pod_container_name", "container")]
        labels += [(f"pod_label_{sane(label)}", sane(label)) for label in spec.get("podTargetLabels", ())]
        yield {
            "job_name": f"{metadata['namespace']}/{metadata['name']}",
            "scrape_interval": endpoint["interval"],
            "scrape_timeout": endpoint["interval"],
            "file_sd_configs": [{"files": [str(pods)], "refresh_interval": "1s"}],
            "relabel_configs": [
                relabel("drop", "pod_phase", ENDED),
                *(relabel("keep", source, regex) for source, regex in keep),
                *(relabel("replace", source, "(.+)", target_label=target) for source, target in labels),
            ],
        }


def relabel(action, source, regex, **rest):
    return {"action": action, "source_labels": [f"{META}{source}"], "regex": regex} | rest


def sane(label):
    """A Kubernetes label's name as Prometheus may have it."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)
