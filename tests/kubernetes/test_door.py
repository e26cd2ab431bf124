"""TLS of the gateways' own: https through the Service, and a Secret that changes under them."""

import ssl

import httpx
import pytest
from cluster import pki
from platform_under_test import MODEL, SYSTEM
from release import gateway_metrics, gateways, name
from serving import until

SECRET = "door-tls"
HOST = f"naru-gateway.{SYSTEM}.svc"
# The kubelet's look at Secrets: a second on the tests' own cluster, up to two minutes on others.
TAKEN_UP_SECONDS_MAX = 150

pytestmark = pytest.mark.timeout(600)


def test_gateways_show_a_certificate_and_take_up_the_next_without_a_restart(naru):
    first, second = (Shown(naru.directory, each) for each in ("first", "second"))
    naru.kubectl("create", "secret", "tls", SECRET, *first.files, f"--namespace={SYSTEM}")
    try:
        naru.upgrade(f"--set=gateway.tls.secretName={SECRET}")
        until(lambda: first.is_answered(naru), "an answer by https", 60)
        assert not second.is_answered(naru), "who does not trust the authority is not answered"
        before = until(lambda: alone(naru), "one gateway", 60)
        naru.kubectl("replace", "--filename=-", text=secret(naru, second))
        until(lambda: second.is_answered(naru), "the next certificate is shown", TAKEN_UP_SECONDS_MAX)
        assert not first.is_answered(naru)
        after = alone(naru)
        assert (name(after), restarts(after)) == (name(before), 0)
        counted = gateway_metrics(naru)
        assert counted["naru_gateway_certificates_refused_total"] == 0
        assert counted['naru_gateway_handshakes_failed_total{reason="refused by the client"}'] >= 2
    finally:
        naru.upgrade("--set=gateway.tls.secretName=")
        naru.kubectl("delete", "secret", SECRET, f"--namespace={SYSTEM}")
    until(lambda: is_plain(naru), "an answer by http again", 60)


class Shown:
    """A certificate of an authority of its own, and a client that trusts this authority alone."""

    def __init__(self, directory, label):
        authority, certificate, key = pki.shown(directory, label, [HOST])
        self.files = [f"--cert={certificate}", f"--key={key}"]
        self.trusting = ssl.create_default_context(cafile=authority)

    def is_answered(self, naru):
        """Whether a question gets its answer through the Service, under its name and by https."""
        service = naru.get("service", "naru-gateway", namespace=SYSTEM)["spec"]
        [port] = service["ports"]
        assert (port["name"], port["port"], port["appProtocol"]) == ("https", 443, "https")
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 4}
        headers = {"authorization": f"Bearer {naru.key}"}
        try:
            with httpx.Client(verify=self.trusting, timeout=60) as client:
                url = f"https://{service['clusterIP']}/v1/chat/completions"
                answer = client.post(url, json=body, headers=headers, extensions={"sni_hostname": HOST})
        except httpx.TransportError:
            return False
        return answer.status_code == 200


def secret(naru, shown):
    """The Secret with another certificate, as YAML."""
    how = ["--dry-run=client", "--output=yaml", f"--namespace={SYSTEM}"]
    return naru.kubectl("create", "secret", "tls", SECRET, *shown.files, *how)


def alone(naru):
    """The one gateway; nothing while another is on its way out or in."""
    found = naru.get("pods", "--selector=app.kubernetes.io/name=naru-gateway", namespace=SYSTEM)["items"]
    return found[0] if len(found) == 1 and found == gateways(naru) else None


def restarts(pod):
    return sum(each["restartCount"] for each in pod["status"]["containerStatuses"])


def is_plain(naru):
    try:
        return naru.ask(tokens=4).status_code == 200
    except httpx.TransportError:
        return False
