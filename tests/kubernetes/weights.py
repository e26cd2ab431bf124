"""A server of weights inside the cluster: HTTPS, with a certificate that only those trust who are told to."""

import json
import subprocess

import serving
from cluster import images

NAMESPACE = "weights"
HOST = f"weights.{NAMESPACE}.svc"
CONFIGURATION = "[req]\ndistinguished_name = subject\n[subject]\n"


def serve(cluster, directory):
    """Brings the server up, and returns the certificate to trust. It reads the models from its node's disk."""
    certificate, key = make_certificate(directory, "weights", [HOST])
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl(
        "create", "secret", "tls", "weights", f"--cert={certificate}", f"--key={key}", f"--namespace={NAMESPACE}"
    )
    cluster.kubectl("apply", "--filename=-", text="\n---\n".join(map(json.dumps, [deployment(), service()])))
    cluster.kubectl("rollout", "status", "deployment/weights", f"--namespace={NAMESPACE}", "--timeout=60s")
    return certificate.read_text()


def uri(model):
    return f"https://{HOST}/{model}"


def make_certificate(directory, name, hosts):
    """A certificate of hosts that is its own authority, and its key."""
    certificate, key, settings = (directory / f"{name}.{kind}" for kind in ("crt", "key", "cnf"))
    names = ",".join(f"DNS:{host}" for host in hosts)
    settings.write_text(CONFIGURATION)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-config", settings, "-subj", f"/CN={hosts[0]}", "-days", "2", "-keyout", key, "-out", certificate]
    command += ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName={names}"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def deployment():
    models = serving.model(serving.SMOLLM2).parent
    container = {
        "name": "server",
        "image": images.PROBE,
        "imagePullPolicy": "Never",
        "args": ["files", ":8443"],
        "ports": [{"containerPort": 8443}],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "models", "mountPath": "/files", "readOnly": True},
            {"name": "certificate", "mountPath": "/tls", "readOnly": True},
        ],
    }
    volumes = [
        {"name": "models", "hostPath": {"path": str(models), "type": "Directory"}},
        {"name": "certificate", "secret": {"secretName": "weights"}},
    ]
    labels = {"app": "weights"}
    # The test takes node2 away; weights stay.
    pod = {"nodeName": "node1", "securityContext": {"runAsUser": 0}, "containers": [container], "volumes": volumes}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "weights", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service():
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "weights", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "weights"}, "ports": [{"port": 443, "targetPort": 8443}]},
    }
