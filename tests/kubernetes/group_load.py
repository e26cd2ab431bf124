"""Streams under way while ranks are lost: which of them may break, and what they may have said by then."""

import json

import httpx
from load import PROMPTS, REQUEST_SECONDS_MAX, Load


class LossyLoad(Load):
    """Answers streaming all the time. One that has begun may end in an error; until then it says what it should."""

    def __enter__(self):
        self.broken = 0
        return super().__enter__()

    def _stream(self, number):
        while not self._enough.is_set():
            prompt = PROMPTS[number % len(PROMPTS)]
            number += 1
            text, is_whole, why = self._ask(prompt)
            expected = self.expected[prompt][0]
            with self._lock:
                self.answered += 1
                self.broken += not is_whole
                if not expected.startswith(text) or (is_whole and text != expected):
                    self.failures.append(f"{prompt}: {text!r} and not {expected!r}")
                if not is_whole and not text:
                    self.failures.append(f"{prompt}: nothing was streamed, and it failed: {why}")

    def _ask(self, prompt):
        """What was streamed, whether that was all, and if not, why."""
        _, _, tokens = self.expected[prompt]
        body = {
            "model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0,
            "max_tokens": tokens, "ignore_eos": True, "stream": True,
        }  # fmt: skip
        headers, text = {"authorization": f"Bearer {self.key}"}, ""
        url = f"{self.address}/chat/completions"
        try:
            with httpx.stream("POST", url, json=body, headers=headers, timeout=REQUEST_SECONDS_MAX) as response:
                if response.status_code != 200:
                    return text, False, f"{response.status_code}: {response.read().decode()}"
                for line in response.iter_lines():
                    if line == "data: [DONE]":
                        return text, True, None
                    event = json.loads(line[6:]) if line.startswith("data: ") else {}
                    if "error" in event:
                        return text, False, event["error"]
                    for choice in event.get("choices", []):
                        text += choice["delta"].get("content") or ""
            return text, False, "it ended without an end"
        except httpx.HTTPError as error:
            return text, False, error
