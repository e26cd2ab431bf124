"""Streams under way while ranks are lost: which of them may break, and what they may have said by then."""

import httpx
from load import PROMPTS, Load, content, events


class LossyLoad(Load):
    """Answers streaming all the time. One that has begun may end in an error; until then it says what it should."""

    def _stream(self, number):
        while not self._enough.is_set():
            prompt = PROMPTS[number % len(PROMPTS)]
            number += 1
            text, why = self._ask(prompt)
            expected = self.expected[prompt][0]
            with self._lock:
                self.answered += 1
                if not expected.startswith(text) or (why is None and text != expected):
                    self.failures.append(f"{prompt}: {text!r} and not {expected!r}")
                if why is not None and not text:
                    self.failures.append(f"{prompt}: nothing was streamed, and it failed: {why}")

    def _ask(self, prompt):
        """What was streamed, and why that was not all, if it was not."""
        text = ""
        try:
            for event in events(self.address, self.key, self.model, prompt):
                text += content(event)
        except (AssertionError, httpx.HTTPError) as failure:
            return text, failure
        return text, None
