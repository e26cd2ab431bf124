"""Tenants and their keys with `naru up`: whoever has none is refused, and an edit of the file takes effect at once."""

import re
import subprocess
import time

import openai
import pytest

import serving


def new_key(tenant):
    """A key, and its entry for the Tenant."""
    command = [serving.BINARIES / "naru", "key", "create", "--tenant", tenant]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    key, _, entry = said.partition("\n")
    return key, re.search(r"sha256: ([0-9a-f]{64})", entry)[1]


def tenant(name, *digests, concurrent=8):
    keys = ", ".join(f"{{name: k{number}, sha256: {digest}}}" for number, digest in enumerate(digests))
    return f"""---
apiVersion: naru.dev/v1alpha1
kind: Tenant
metadata: {{name: {name}}}
spec: {{quota: {{concurrentRequests: {concurrent}}}, keys: [{keys}]}}
"""


@pytest.fixture(scope="module")
def weights():
    return serving.model(serving.SMOLLM2)


def test_keys_open_what_their_tenant_may_use(tmp_path, weights):
    (saudi, saudi_digest), (bank, bank_digest) = new_key("saudi"), new_key("bank")
    models = serving.deployment("open", weights)
    models += serving.deployment("gulf", weights).replace("  replicas:", "  access: {tenants: [saudi]}\n  replicas:")
    platform = serving.Platform(tmp_path, models + tenant("saudi", saudi_digest) + tenant("bank", bank_digest))

    def client(key):
        return openai.OpenAI(base_url=platform.address, api_key=key, max_retries=0, timeout=60)

    def ask(key, model):
        messages = [{"role": "user", "content": "Hi"}]
        return client(key).chat.completions.create(model=model, messages=messages, max_tokens=2)

    assert ask(saudi, "gulf").choices and ask(bank, "open").choices
    assert [model.id for model in client(bank).models.list()] == ["open"]
    assert [model.id for model in client(saudi).models.list()] == ["gulf", "open"]
    with pytest.raises(openai.AuthenticationError):
        ask("naru_" + "x" * 43, "open")
    with pytest.raises(openai.PermissionDeniedError):
        ask(bank, "gulf")
    with pytest.raises(openai.NotFoundError):
        ask(bank, "nobody")

    # An edit is seen within a fraction of a second.
    platform.write(models + tenant("saudi", saudi_digest) + tenant("bank"))
    written = time.monotonic()

    def refused():
        try:
            client(bank).models.list()
        except openai.AuthenticationError:
            return True
        return False

    serving.until(refused, "a key that was taken out of the file is refused", 10)
    print(f"refused {time.monotonic() - written:.2f} s after the edit")
    assert ask(saudi, "open").choices
    assert platform.stop() == 0, platform.log_tail()
    log = platform.log.read_text()
    assert '"tenant":"saudi"' in log
    assert saudi not in log and bank not in log, "keys are in no log"
