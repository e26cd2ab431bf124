"""Streams under way, all the time, and what each of them should have said."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

STREAMS = 8
TOKENS = 64
PROMPTS = [f"Tell me a story about {what}." for what in ("a ferry", "two rivers", "the night watch", "an old map")]
REQUEST_SECONDS_MAX = 180


def events(address, key, model, prompt):
    """Streams one answer, event by event. Fails on anything that is not a whole answer."""
    body = {
        "model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": TOKENS,
        "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    headers = {"authorization": f"Bearer {key}"}
    url = f"{address}/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=REQUEST_SECONDS_MAX) as response:
        if response.status_code != 200:
            raise AssertionError(f"{response.status_code}: {response.read().decode()}")
        done = False
        for line in response.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise AssertionError(f"the stream broke: {event['error']}")
                yield event
    assert done, "the stream was cut off"


def content(event):
    """What an event adds to the text of an answer."""
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def ask(address, key, model, prompt):
    """Streams one answer: its text, its finish_reason and its number of tokens. Fails on anything else."""
    text, finish, usage = "", None, None
    for event in events(address, key, model, prompt):
        text += content(event)
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            finish = choice["finish_reason"] or finish
    return text, finish, usage["completion_tokens"]


class Load:
    """Keeps answers streaming, `streams` at a time, as long as a `with` lasts, and judges every one of them."""

    def __init__(self, naru, model, requests_min=0, streams=STREAMS):
        self.address, self.key, self.model = naru.gateway, naru.key, model
        self.requests_min, self.streams = requests_min, streams
        self.failures, self.answered = [], 0
        self._enough, self._lock = threading.Event(), threading.Lock()

    def undisturbed(self):
        """What each prompt is answered with while nothing happens."""
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            answers = pool.map(lambda prompt: ask(self.address, self.key, self.model, prompt), PROMPTS)
            return dict(zip(PROMPTS, answers, strict=True))

    def __enter__(self):
        self.expected = self.undisturbed()
        assert all(answer[1:] == ("length", TOKENS) for answer in self.expected.values()), self.expected
        self._threads = [threading.Thread(target=self._stream, args=(number,)) for number in range(self.streams)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, *_):
        deadline = time.monotonic() + REQUEST_SECONDS_MAX
        while kind is None and self.answered < self.requests_min and time.monotonic() < deadline:
            time.sleep(0.1)
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _stream(self, number):
        while not self._enough.is_set():
            prompt = PROMPTS[number % len(PROMPTS)]
            number += 1
            try:
                answer = ask(self.address, self.key, self.model, prompt)
                if answer != self.expected[prompt]:
                    raise AssertionError(f"{prompt}: {answer} and not {self.expected[prompt]}")
            except (AssertionError, httpx.HTTPError) as failure:
                with self._lock:
                    self.failures.append(f"{type(failure).__name__}: {failure}")
                    if len(self.failures) > 100:
                        self._enough.set()
            with self._lock:
                self.answered += 1

    def judge(self):
        """Fails if any answer failed, was cut or was not what it should have been."""
        assert not self.failures, f"{len(self.failures)} of {self.answered}: {self.failures[:5]}"
        assert self.answered >= self.requests_min, f"only {self.answered} answers"
