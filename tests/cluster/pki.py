"""The cluster's certificates, from one authority of its own, and the kubeconfig of each who holds one."""

import base64
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .failure import Failed

DAYS = "365"
CONFIGURATION = "[req]\ndistinguished_name = subject\n[subject]\n"


class Authority:
    """A certificate authority whose files are in `directory`."""

    def __init__(self, directory):
        self.directory = Path(directory)

    @property
    def certificate(self):
        return self.path("ca.crt")

    @property
    def key(self):
        return self.path("ca.key")

    def path(self, name):
        return self.directory / name

    def issue_all(self, layout):
        """Makes the authority, and everything that the cluster's programs need."""
        self.directory.mkdir(parents=True, mode=0o700)
        self.path("openssl.cnf").write_text(CONFIGURATION)
        extensions = [
            "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash",
        ]  # fmt: skip
        self._certificate("ca", f"/CN={layout.name}", extensions)
        addresses = [layout.control_address, layout.api_service_address, "127.0.0.1"]
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        wanted = [
            ("kube-apiserver", "/CN=kube-apiserver", alternatives(names, addresses)),
            ("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client", None),
            ("front-proxy-client", "/CN=front-proxy-client", None),
            ("admin", "/O=system:masters/CN=admin", None),
            ("coredns", "/CN=system:coredns", None),
            ("kube-controller-manager", "/CN=system:kube-controller-manager", None),
            ("kube-scheduler", "/CN=system:kube-scheduler", None),
            ("kube-proxy", "/CN=system:kube-proxy", None),
            *(
                (node.name, f"/O=system:nodes/CN=system:node:{node.name}", alternatives([node.name], [node.address]))
                for node in layout.nodes
            ),
        ]
        with ThreadPoolExecutor() as pool:
            account_key = pool.submit(self._account_key)
            list(pool.map(lambda each: self._issue(*each), wanted))
            account_key.result()

    def kubeconfig(self, name, server):
        """The text of a kubeconfig for the holder of certificate `name`."""

        def data(file):
            return base64.b64encode(self.path(file).read_bytes()).decode()

        return f"""apiVersion: v1
kind: Config
clusters:
- name: naru-test
  cluster: {{server: "{server}", certificate-authority-data: {data("ca.crt")}}}
users:
- name: {name}
  user: {{client-certificate-data: {data(name + ".crt")}, client-key-data: {data(name + ".key")}}}
contexts:
- name: naru-test
  context: {{cluster: naru-test, user: {name}}}
current-context: naru-test
"""

    def _issue(self, name, subject, subject_alternatives):
        extensions = [
            "basicConstraints=CA:FALSE", "keyUsage=digitalSignature", "extendedKeyUsage=serverAuth,clientAuth",
            "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid",
        ]  # fmt: skip
        if subject_alternatives:
            extensions.append(f"subjectAltName={subject_alternatives}")
        self._certificate(name, subject, extensions, "-CA", self.certificate, "-CAkey", self.key)

    def _certificate(self, name, subject, extensions, *signer):
        self._openssl(
            "req", "-x509", "-config", self.path("openssl.cnf"), "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", self.path(f"{name}.key"),
            "-out", self.path(f"{name}.crt"), "-subj", subject, "-days", DAYS,
            *(part for extension in extensions for part in ("-addext", extension)), *signer,
        )  # fmt: skip

    def _account_key(self):
        """The pair of keys with which tokens of service accounts are signed and checked."""
        curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        self._openssl("genpkey", *curve, "-out", self.path("accounts.key"))
        self._openssl("pkey", "-in", self.path("accounts.key"), "-pubout", "-out", self.path("accounts.pub"))

    @staticmethod
    def _openssl(*arguments):
        result = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
        if result.returncode != 0:
            raise Failed(f"openssl {arguments[0]}: {result.stderr.strip()}")


def alternatives(names, addresses):
    return ",".join([f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses])


def shown(directory, name, hosts):
    """An authority of its own for a certificate of hosts: the files of it, of the certificate and of its key."""
    ca, ca_key, certificate, key, settings = (
        directory / f"{name}{kind}" for kind in ("-ca.crt", "-ca.key", ".crt", ".key", ".cnf")
    )
    settings.write_text(CONFIGURATION)
    start = ["openssl", "req", "-x509", "-config", settings, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    start += ["-nodes", "-days", "30"]
    root = ["-subj", f"/CN={name} authority", "-keyout", ca_key, "-out", ca]
    root += ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    leaf = ["-subj", f"/CN={hosts[0]}", "-keyout", key, "-out", certificate, "-CA", ca, "-CAkey", ca_key]
    leaf += ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName={alternatives(hosts, [])}"]
    leaf += ["-addext", "subjectKeyIdentifier=hash", "-addext", "authorityKeyIdentifier=keyid"]
    for options in (root, leaf):
        subprocess.run(start + options, check=True, capture_output=True)
    return ca, certificate, key
