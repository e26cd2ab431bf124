"""What every test of running processes may ask for."""

import os

import pytest
from openai import OpenAI

import serving

pytest_plugins = ["cluster.fixtures"]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped test is a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, and in CI nothing is"


@pytest.fixture(scope="session")
def platform(tmp_path_factory):
    """`naru up` that serves both models; for tests that leave it as they found it."""
    yaml = serving.deployment("smollm2", serving.model(serving.SMOLLM2))
    yaml += serving.deployment("qwen", serving.model(serving.QWEN))
    platform = serving.Platform(tmp_path_factory.mktemp("platform"), yaml)
    yield platform
    assert platform.stop() == 0, platform.log_tail()


@pytest.fixture(scope="session")
def client(platform):
    """The official client, as a user would make it."""
    return OpenAI(base_url=platform.address, api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    """One worker alone, for what the gateway does not pass on."""
    worker = serving.Worker(
        tmp_path_factory.mktemp("worker"), serving.model(serving.SMOLLM2), "--served-name", "smollm2",
        "--max-context-tokens", "2048",
    ).wait_ready()  # fmt: skip
    yield worker
    assert worker.stop() == 0, worker.log_tail()
