"""What runs on the control plane's machine: etcd, the API server, the controller manager, the scheduler and DNS.

Nodes that are lost are noticed sooner than elsewhere (GRACE_SECONDS instead of 50, and pods are told to go after
TOLERATION_SECONDS instead of 300), so that a test can wait for it.
"""

import json
import ssl
import time
import urllib.error
import urllib.request

from .failure import Failed, until
from .machine import Machine

GRACE_SECONDS = 12
TOLERATION_SECONDS = 5
START_SECONDS_MAX = 180

AUDIT_POLICY = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""


class ControlPlane:
    """The control plane of one cluster."""

    def __init__(self, layout, programs, authority):
        self.layout = layout
        self.programs = programs
        self.authority = authority
        self.machine = Machine("control", layout.directory / "control", f"{layout.cgroup}/control", programs.path)
        self._context = None

    def start_storage_and_api(self):
        """Starts etcd and the API server, and does not wait for them."""
        directory = self.machine.directory
        (directory / "etcd").mkdir(mode=0o700)
        (directory / "audit-policy.yaml").write_text(AUDIT_POLICY)
        self.machine.start(
            "etcd", "etcd", "--data-dir", directory / "etcd", "--name", "etcd",
            "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=etcd=http://127.0.0.1:2380", "--log-level=warn", "--logger=zap",
        )  # fmt: skip
        self.start_api_server()

    def start_api_server(self):
        pki, layout = self.authority.path, self.layout
        self.machine.start(
            "kube-apiserver", self.programs.kubernetes, "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443",
            f"--advertise-address={layout.control_address}",
            f"--service-cluster-ip-range={layout.services}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--profiling=false",
            f"--tls-cert-file={pki('kube-apiserver.crt')}", f"--tls-private-key-file={pki('kube-apiserver.key')}",
            f"--client-ca-file={pki('ca.crt')}", f"--kubelet-certificate-authority={pki('ca.crt')}",
            f"--kubelet-client-certificate={pki('kubelet-client.crt')}",
            f"--kubelet-client-key={pki('kubelet-client.key')}", "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki('accounts.pub')}",
            f"--service-account-signing-key-file={pki('accounts.key')}",
            f"--requestheader-client-ca-file={pki('ca.crt')}", "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki('front-proxy-client.crt')}",
            f"--proxy-client-key-file={pki('front-proxy-client.key')}",
            # Webhooks are called at their pods: no services are rewritten on this machine.
            "--enable-aggregator-routing=true",
            f"--default-not-ready-toleration-seconds={TOLERATION_SECONDS}",
            f"--default-unreachable-toleration-seconds={TOLERATION_SECONDS}",
            f"--audit-policy-file={self.machine.directory / 'audit-policy.yaml'}",
            f"--audit-log-path={layout.audit_log}", "--audit-log-maxsize=4000", "--audit-log-maxbackup=0",
        )  # fmt: skip

    def start_controllers(self):
        """Starts the controller manager and the scheduler; the API server is ready."""
        pki = self.authority.path
        for name in ("kube-controller-manager", "kube-scheduler"):
            kubeconfig = self._write_kubeconfig(name)
            options = [f"--{which}={kubeconfig}" for which in
                       ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")]  # fmt: skip
            options += ["--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"]
            if name == "kube-controller-manager":
                options += [
                    "--use-service-account-credentials=true", f"--root-ca-file={pki('ca.crt')}",
                    f"--service-account-private-key-file={pki('accounts.key')}",
                    f"--cluster-signing-cert-file={pki('ca.crt')}", f"--cluster-signing-key-file={pki('ca.key')}",
                    f"--node-monitor-grace-period={GRACE_SECONDS}s", "--node-monitor-period=2s",
                    "--node-eviction-rate=10", "--secondary-node-eviction-rate=10",
                    "--kube-api-qps=200", "--kube-api-burst=400",
                ]  # fmt: skip
            else:
                options += ["--kube-api-qps=200", "--kube-api-burst=400"]
            self.machine.start(name, self.programs.kubernetes, name, *options)

    def start_dns(self):
        """Starts the cluster's DNS; its role is bound already."""
        file = self.machine.directory / "Corefile"
        file.write_text(f""".:53 {{
    bind {self.layout.control_address}
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {self._write_kubeconfig("coredns")}
        pods insecure
    }}
}}
""")
        self.machine.start("coredns", self.programs.coredns, "-conf", file)

    def stop_api_server(self):
        """Ends the API server as a crash would."""
        self.machine.stop("kube-apiserver", seconds=0)

    def outage(self, seconds):
        """The API server is gone for so long, and then back and ready."""
        self.stop_api_server()
        time.sleep(seconds)
        self.start_api_server()
        self.wait_api()

    def wait_api(self):
        self._until(lambda: self.get("/readyz") == "ok", "kube-apiserver", "the API server is ready")

    def wait_controllers(self):
        """Waits until the controllers have done the first thing that pods need of them."""
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._until(lambda: self.get(account), "kube-controller-manager", "the default service account is there")

    def wait_dns(self):
        def answers():
            try:
                return self.machine.run(self.programs.probe, "get", "http://127.0.0.1:8181/ready")
            except Failed:
                return None

        self._until(answers, "coredns", "DNS is ready")

    def get(self, path):
        """What the API server answers to the administrator: data, or text, or nothing if it does not."""
        return self.request("GET", path)

    def request(self, verb, path, body=None, content_type="application/json"):
        request = urllib.request.Request(
            self.layout.api_url + path,
            method=verb,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": content_type},
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=self._tls()) as response:
                text = response.read().decode()
        except (urllib.error.URLError, OSError):
            return None
        return json.loads(text) if text.startswith("{") else text

    def _tls(self):
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self.authority.certificate)
            self._context.load_cert_chain(self.authority.path("admin.crt"), self.authority.path("admin.key"))
        return self._context

    def _until(self, condition, daemon, what):
        """Waits for a condition, but no longer than the daemon lives that is to fulfil it."""

        def checked():
            found = condition()
            if not found and not self.machine.is_running(daemon):
                raise Failed(f"{daemon} ended; its log ends:\n{self.machine.log_tail(daemon)}")
            return found

        return until(checked, f"{what}; see {self.machine.log(daemon)}", START_SECONDS_MAX)

    def _write_kubeconfig(self, name):
        file = self.machine.directory / f"{name}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(self.authority.kubeconfig(name, self.layout.api_url))
        return file
