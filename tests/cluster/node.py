"""One node: a machine with a containerd, a kubelet and a kube-proxy of its own."""

import json
import re
import shutil
import time
from datetime import datetime

from . import images, network
from .failure import Failed, until
from .machine import Machine

START_SECONDS_MAX = 180

CONTAINERD = """version = 2
root = "{directory}/containerd"
state = "{directory}/state/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{directory}/state/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  # Where root may not lower an oom_score_adj, no sandbox would start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{directory}/cni"
  # Where registries are, for tests that have one: a folder for each, with a hosts.toml, read at each pull.
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{directory}/registries"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""

KUBE_PROXY = """apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
bindAddress: {address}
hostnameOverride: {name}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {{kubeconfig: {directory}/kube-proxy.kubeconfig}}
# Whoever comes from elsewhere (the host) gets this node's address, so that the answer comes back the same way.
detectLocalMode: ClusterCIDR
clusterCIDR: {pods}
# A network namespace other than the first may not set these.
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"""


class Node:
    """One node of the cluster."""

    def __init__(self, place, layout, programs, authority, control):
        self.place = place
        self.layout = layout
        self.programs = programs
        self.authority = authority
        self.control = control
        self.cgroup = f"{layout.cgroup}/{place.name}"
        self.machine = Machine(place.name, layout.directory / place.name, self.cgroup, programs.path)
        self._kubelet_started = 0.0

    @property
    def name(self):
        return self.place.name

    @property
    def directory(self):
        return self.machine.directory

    @property
    def state(self):
        """What a machine loses when it is switched off."""
        return self.directory / "state"

    def start(self):
        """Switches the machine on, and starts what does not run on it. Returns before the node is Ready."""
        if not self.machine.is_on:
            self.machine.boot(self.programs.pause)
            network.plug_in_node(self.layout, self.place, self.machine, self.control.machine)
            self.state.mkdir(exist_ok=True)
            self._configure()
        self.machine.start("containerd", "containerd", "--config", self.directory / "containerd.toml")
        self.machine.start(
            "kube-proxy", self.programs.kubernetes, "kube-proxy", "--config", self.directory / "kube-proxy.yaml"
        )
        until(self._containerd_answers, f"containerd answers: {self.machine.log('containerd')}", START_SECONDS_MAX)
        self.start_kubelet()

    def start_kubelet(self):
        self._kubelet_started = time.time()
        self.machine.start(
            "kubelet", self.programs.kubernetes, "kubelet",
            f"--config={self.directory / 'kubelet.yaml'}", f"--kubeconfig={self.directory / 'kubelet.kubeconfig'}",
            f"--root-dir={self.directory / 'kubelet'}", f"--hostname-override={self.name}",
            f"--node-ip={self.place.address}",
            f"--node-labels=topology.kubernetes.io/zone={self.place.zone},"
            f"topology.kubernetes.io/region={self.place.region}",
        )  # fmt: skip

    def stop_kubelet(self):
        """Ends the kubelet. Its pods run on, and nobody hears of them: the node will be NotReady."""
        self.machine.stop("kubelet", seconds=0)

    def stop(self):
        """Pulls the cord: the node and its pods are gone at once. Its disk stays, for `start`."""
        self.machine.power_off()
        if self.state.exists():
            shutil.rmtree(self.state)

    def load(self, archive):
        """Brings the images of an archive (OCI or Docker) into the containerd, and returns their names."""
        return re.findall(r"^unpacking (\S+) ", self._ctr("image", "import", archive), re.MULTILINE)

    def rename_image(self, name, other):
        """Has an image be called otherwise; pods that run from it go on."""
        self._ctr("image", "tag", name, other)
        self._ctr("image", "remove", name)

    def wait_ready(self):
        """Waits until the API server knows the node as Ready."""
        until(self.is_ready, f"{self.name} is Ready; see {self.machine.log('kubelet')}", START_SECONDS_MAX)

    def is_ready(self):
        if self.machine.is_on and not self.machine.is_running("kubelet"):
            raise Failed(f"the kubelet of {self.name} ended:\n{self.machine.log_tail('kubelet')}")
        node = self.control.get(f"/api/v1/nodes/{self.name}") or {}
        for condition in node.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready":
                said = datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp()  # in whole seconds
                return condition["status"] == "True" and said >= int(self._kubelet_started)
        return False

    def _ctr(self, *command):
        return self.machine.run("ctr", "--address", self.state / "containerd.sock", "--namespace", "k8s.io", *command)

    def _containerd_answers(self):
        if not self.machine.is_running("containerd"):
            raise Failed(f"containerd of {self.name} ended:\n{self.machine.log_tail('containerd')}")
        try:
            return self._ctr("version")
        except Failed:
            return None

    def _configure(self):
        """Writes what the daemons read."""
        directory = self.directory
        names = {
            "directory": directory,
            "name": self.name,
            "address": self.place.address,
            "pods": self.layout.pods,
            "pause": images.PAUSE,
            "cni": self.programs.cni,
        }
        (directory / "containerd.toml").write_text(CONTAINERD.format(**names))
        (directory / "kube-proxy.yaml").write_text(KUBE_PROXY.format(**names))
        (directory / "kubelet.yaml").write_text(json.dumps(self._kubelet(), indent=1))
        (directory / "cni").mkdir(exist_ok=True)
        (directory / "cni" / "pods.conflist").write_text(json.dumps(self._pod_network()))
        for file, certificate in (("kubelet", self.name), ("kube-proxy", "kube-proxy")):
            path = directory / f"{file}.kubeconfig"
            path.touch(mode=0o600)
            path.write_text(self.authority.kubeconfig(certificate, self.layout.api_url))

    def _pod_network(self):
        """Each pod has a cable of its own to the node, which routes; so even neighbours pass the service rules."""
        addresses = {
            "type": "host-local",
            "dataDir": str(self.state / "addresses"),
            "ranges": [[{"subnet": str(self.place.pods)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": addresses}]}

    def _kubelet(self):
        pki = self.authority.path
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": str(self.place.address),
            "readOnlyPort": 0,
            "healthzBindAddress": "127.0.0.1",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki("ca.crt"))},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki(f"{self.name}.crt")),
            "tlsPrivateKeyFile": str(pki(f"{self.name}.key")),
            "containerRuntimeEndpoint": f"unix://{self.state / 'containerd.sock'}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            # The disk is the real machine's, and is not this node's to watch.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                **{f"{disk}.{what}": "0%" for disk in ("nodefs", "imagefs") for what in ("available", "inodesFree")},
            },
            "clusterDNS": [str(self.layout.control_address)],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "nodeStatusUpdateFrequency": "3s",
            "nodeLeaseDurationSeconds": 8,
            # Pods are looked at every second, so that a Secret that changed is soon in their files.
            "syncFrequency": "200ms",
            "serializeImagePulls": False,
            "podLogsDir": str(self.directory / "pods"),
            "volumePluginDir": str(self.directory / "volume-plugins"),
            "logging": {"verbosity": 2},
        }
