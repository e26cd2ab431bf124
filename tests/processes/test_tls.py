"""`naru up` with a certificate: the same API by https, and nothing by http."""

import ssl

import httpx

import serving
from cluster import pki

NAME = "api.example.com"
SIMULATED = """---
apiVersion: naru.dev/v1alpha1
kind: ModelDeployment
metadata: {name: solar, namespace: default}
spec:
  model: {uri: "sim://default?speed=10"}
  backend: sim
  rollout: {drainSeconds: 1}
"""


def test_the_api_is_served_by_https(tmp_path):
    authority, certificate, key = pki.shown(tmp_path, "door", [NAME])
    file = tmp_path / "models.yaml"
    file.write_text(SIMULATED)
    listen, ops = serving.free_address(), serving.free_address()
    up = serving.Process(
        [
            serving.BINARIES / "naru", "up", "-f", file, "--listen", listen, "--ops-listen", ops,
            "--data-dir", tmp_path / "data", "--tls-cert", certificate, "--tls-key", key,
        ],
        tmp_path,
        "up",
    )  # fmt: skip
    try:
        assert up.line() == f"ready https://{listen}/v1"
        trusting = ssl.create_default_context(cafile=authority)
        body = {"model": "solar", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
        with httpx.Client(verify=trusting, timeout=60) as client:
            named = {"sni_hostname": NAME}
            answer = client.post(f"https://{listen}/v1/chat/completions", json=body, extensions=named)
            assert answer.status_code == 200, answer.text
            events = client.post(
                f"https://{listen}/v1/chat/completions", json=body | {"stream": True}, extensions=named
            )
        assert events.text.endswith("data: [DONE]\n\n"), events.text
        refused = httpx.post(f"http://{listen}/v1/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "tls_needed")
        assert httpx.get(f"http://{ops}/readyz").status_code == 200
        counted = serving.read_metrics(f"http://{ops}/metrics")
        assert counted["naru_certificate_expiry_timestamp_seconds"] > counted["process_start_time_seconds"]
    finally:
        assert up.stop() == 0
