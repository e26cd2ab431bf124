"""Hostile and broken requests: each gets an error in OpenAI's shape, and those beside them do not notice."""

import json
import socket
import threading
import time

import httpx
import pytest

FAULTY = [400, 404, 405, 408, 413, 415, 422, 431]
WRONG = [None, True, -1, 1.5, 10**30, "text", "", [], [None], {}, {"a": 1}, [[]], "\u0000"]
FIELDS = [
    "model", "messages", "prompt", "temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "max_completion_tokens",
    "min_tokens", "stop", "stop_token_ids", "seed", "logprobs", "top_logprobs", "logit_bias", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "stream", "stream_options", "tools", "tool_choice", "response_format",
    "ignore_eos", "echo", "suffix", "user", "skip_special_tokens", "include_stop_str_in_output", "add_special_tokens",
    "chat_template_kwargs", "continue_final_message", "add_generation_prompt",
]  # fmt: skip
CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
TEXT = {"model": "smollm2", "prompt": "Hi", "max_tokens": 2}
BASES = {"/chat/completions": CHAT, "/completions": TEXT}


@pytest.fixture(scope="module")
def http(platform):
    with httpx.Client(base_url=platform.address, timeout=60) as http:
        yield http


def refused(response):
    """The error, after seeing that it has OpenAI's shape."""
    assert response.status_code in FAULTY, (response.status_code, response.text[:300])
    error = response.json()["error"]
    assert error["message"] and error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    return error


def answers(http):
    """A normal request is still answered."""
    response = http.post("/chat/completions", json=CHAT)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", BASES)
@pytest.mark.parametrize("field", FIELDS)
def test_a_value_of_any_type_in_any_field_is_answered_or_refused(http, path, field):
    for value in WRONG:
        response = http.post(path, json=BASES[path] | {field: value})
        if response.status_code != 200:
            error = refused(response)
            assert response.status_code in (400, 404), (field, value)
            assert error["param"] is None or isinstance(error["param"], str)


@pytest.mark.parametrize("path", [*BASES, "/../tokenize", "/../detokenize"])
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'"x"', b"{}", b'{"model":}', b"[" * 100_000, b'{"a":' * 50_000,
        b'{"model": "smollm2", "messages": "' + b"\\ud800" + b'"}', b"NaN", b'{"model": "smollm2"} x',
    ],
)  # fmt: skip
def test_what_is_not_a_request_is_refused(http, worker, path, body):
    url = worker.address + path.removeprefix("/..") if path.startswith("/..") else path
    error = refused(http.post(url, content=body, headers={"content-type": "application/json"}))
    assert len(error["message"]) < 1000


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "-1", "-0.5", "1e400", "-1e400"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "repetition_penalty", "max_tokens", "n"])
def test_numbers_that_are_not_quantities_are_refused(http, field, value):
    body = json.dumps(CHAT | {field: "@"}).replace('"@"', value)
    error = refused(http.post("/chat/completions", content=body, headers={"content-type": "application/json"}))
    assert error["param"] in (field, None)


def test_a_hundred_megabytes_are_refused(http):
    body = json.dumps(CHAT | {"user": "x" * (100 << 20)})
    for path in BASES:
        response = http.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 413, response.text[:200]
        refused(response)
    answers(http)


def test_a_hundred_megabytes_without_a_length_are_refused(http):
    def chunks():
        for _ in range(100):
            yield b"x" * (1 << 20)

    try:
        response = http.post("/chat/completions", content=chunks(), headers={"content-type": "application/json"})
        assert response.status_code == 413
    except httpx.WriteError:
        pass  # it closed the connection before it had read all of it
    answers(http)


def test_a_million_stop_strings_are_refused(http):
    response = http.post("/chat/completions", json=CHAT | {"stop": ["x"] * 1_000_000})
    error = refused(response)
    assert response.status_code in (400, 413)
    assert error["param"] == "stop" or response.status_code == 413
    answers(http)


def test_the_wrong_method_and_the_wrong_path_are_refused(http):
    refused(http.get("/chat/completions"))
    refused(http.delete("/models"))
    refused(http.post("/nothing", json={}))
    refused(http.get("/chat/completions/" + "x" * 5000))


def test_headers_of_any_kind_do_no_harm(http):
    for headers in ({"x-request-id": "y" * 5000}, {"authorization": "Bearer " + "z" * 4000}, {"x-naru-tenant": "t" * 2000}):
        response = http.post("/chat/completions", json=CHAT, headers=headers)
        assert response.status_code in (200, 400, 431)
    answers(http)


def test_slow_clients_do_not_hold_up_others(platform, http):
    """Sixty-four clients send a byte now and then; normal ones are answered as ever, and the slow are given up."""
    host, port = platform.listen.split(":")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500\r\n"
    slow = []
    for number in range(64):
        connection = socket.create_connection((host, int(port)), timeout=10)
        connection.sendall(head[: 20 + number] if number % 2 else head + b"\r\n{")
        slow.append(connection)
    stop = threading.Event()

    def trickle():
        while not stop.wait(0.5):
            for connection in slow:
                try:
                    connection.sendall(b" ")
                except OSError:
                    pass

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        started = time.monotonic()
        for _ in range(10):
            answers(http)
        assert time.monotonic() - started < 20
    finally:
        stop.set()
        thread.join()
        for connection in slow:
            connection.close()
    answers(http)


def test_a_client_that_does_not_read_is_given_up(platform, client):
    """A stream that nobody reads must not fill memory or hold its sequence for ever."""
    host, port = platform.listen.split(":")
    body = json.dumps(CHAT | {"stream": True, "max_tokens": 64, "n": 4}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    idle = []
    for _ in range(8):
        connection = socket.create_connection((host, int(port)), timeout=10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.sendall(request + b"content-length: %d\r\n\r\n" % len(body) + body)
        idle.append(connection)
    answer = client.chat.completions.create(model="smollm2", messages=CHAT["messages"], max_tokens=4)
    assert answer.choices
    for connection in idle:
        connection.close()
