"""Each fault becomes the exception that the official client has for it, and names the parameter."""

import time

import openai
import pytest

import serving

QUESTION = [{"role": "user", "content": "Count to one hundred."}]


def ask(client, **options):
    options = {"model": "smollm2", "messages": QUESTION, "max_tokens": 8} | options
    return client.chat.completions.create(**options)


@pytest.mark.parametrize(
    ("param", "options"),
    [
        ("temperature", {"temperature": -1}),
        ("temperature", {"temperature": 3}),
        ("top_p", {"top_p": 1.5}),
        ("n", {"n": 0}),
        ("n", {"n": 1000}),
        ("max_tokens", {"max_tokens": -5}),
        ("presence_penalty", {"presence_penalty": 9}),
        ("stop", {"stop": ["x"] * 100}),
        ("logit_bias", {"logit_bias": {"5": 1000}}),
        ("logit_bias", {"logit_bias": {"999999": 1}}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 500}),
        ("messages", {"messages": []}),
        ("tool_choice", {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}),
    ],
)
def test_a_parameter_at_fault_is_named(client, param, options):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, **options)
    error = raised.value
    assert error.status_code == 400
    assert error.type == "invalid_request_error"
    assert error.param.startswith(param), error.param
    assert error.message


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, model="nobody")
    assert raised.value.param == "model"
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_an_unknown_path_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing", cast_to=dict)


def test_a_prompt_beyond_the_context_is_refused(client):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, messages=[{"role": "user", "content": "word " * 5000}])
    assert raised.value.code == "context_length_exceeded"
    assert "2048" in raised.value.message


def test_a_body_beyond_the_limit_is_too_large(client):
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client, messages=[{"role": "user", "content": "x" * (100 << 20)}])
    assert raised.value.status_code == 413
    assert raised.value.type == "invalid_request_error"


def test_a_client_that_will_not_wait_gets_its_timeout(client):
    started = time.monotonic()
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.2), max_tokens=1500, extra_body={"ignore_eos": True})
    assert time.monotonic() - started < 5


def running(platform):
    """Requests that any worker is computing or keeps waiting."""
    metrics = platform.worker_metrics().values()
    return sum(m["naru_requests_running"] + m["naru_requests_waiting"] for m in metrics)


def test_a_stream_that_is_closed_is_not_computed_further(client, platform):
    serving.until(lambda: running(platform) == 0, "nothing is running")
    stream = ask(client, max_tokens=1900, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert running(platform) == 1
    stream.close()
    serving.until(lambda: running(platform) == 0, "the stream is given up", seconds=5)


def test_a_timeout_is_a_cancellation_too(client, platform):
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.3), max_tokens=1900, extra_body={"ignore_eos": True})
    serving.until(lambda: running(platform) == 0, "the request is given up", seconds=5)
