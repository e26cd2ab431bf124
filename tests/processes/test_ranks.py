"""One replica as several processes: their answers, a rank lost at every place, a rank that is slow, a way out."""

import os
import signal
import threading
import time

import httpx
import pytest

import serving
from serving import until

# The ranks of a stage round partial sums apart from one rank (decision 31); stages change no bit.
QUESTIONS = ["The capital of Saudi Arabia is", "def fibonacci(n):", "Once upon a time, a ferry", "สวัสดี", "나루"]
# Stated for the product; on this machine it is some 30 ms.
NOTICED_SECONDS_MAX = 2
BACK_SECONDS_MAX = 15


class Ranks:
    """The processes of one replica: its members, of `each` ranks."""

    def __init__(self, directory, tensor, pipeline, each=1):
        self.directory, self.tensor, self.pipeline, self.each = directory, tensor, pipeline, each
        self.addresses = [serving.free_address(each) for _ in range(tensor * pipeline // each)]
        self.workers = [self.start(member) for member in range(len(self.addresses))]

    def start(self, member):
        options = [f"--tensor={self.tensor}", f"--pipeline={self.pipeline}", f"--devices-per-member={self.each}"]
        options += [f"--member={member}", f"--members={','.join(self.addresses)}", "--threads=1"]
        options += [f"--links-listen={self.addresses[member]}", "--served-name=m"]
        options += ["--max-context-tokens=2048", "--kv-cache-memory=64Mi"]
        return serving.Worker(self.directory, serving.model(serving.SMOLLM2), *options, name=f"member{member}")

    def restart(self, member):
        self.workers[member] = self.start(member)

    def is_ready(self):
        return serving.is_ready(self.workers[0].ops)

    def wait_ready(self, seconds=60):
        until(self.is_ready, "the ranks have met", seconds)

    def stop(self):
        for worker in self.workers:
            if worker.child.poll() is None:
                worker.child.kill()
                worker.stop()


def ask(worker, prompt, tokens=24):
    body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    return httpx.post(f"{worker.address}/v1/completions", json=body, timeout=120)


def text(worker, prompt, tokens=24):
    answer = ask(worker, prompt, tokens)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one rank answers."""
    options = ["--served-name=m", "--max-context-tokens=2048", "--threads=1"]
    worker = serving.Worker(tmp_path_factory.mktemp("alone"), serving.model(serving.SMOLLM2), *options)
    worker.wait_ready()
    yield {question: text(worker, question) for question in QUESTIONS}
    worker.stop()


@pytest.fixture
def ranks(tmp_path, request):
    ranks = Ranks(tmp_path, *request.param)
    try:
        ranks.wait_ready()
        yield ranks
    finally:
        ranks.stop()


# Members of a rank each, two members of two, and one alone of two.
@pytest.mark.parametrize("ranks", [(3, 1), (3, 2), (1, 3), (1, 4, 2), (1, 2, 2)], indirect=True)
def test_ranks_answer_as_one_does(ranks, alone):
    assert {question: text(ranks.workers[0], question) for question in QUESTIONS} == alone
    # Another member computes and does not answer.
    assert [ask(worker, "hello").status_code for worker in ranks.workers[1:]] == [503] * (len(ranks.workers) - 1)


@pytest.mark.parametrize("ranks", [(1, 4, 2)], indirect=True)
def test_a_member_of_two_ranks_is_lost_with_both_and_comes_back_with_both(ranks, alone):
    for victim in (1, 0):
        pids = [worker.child.pid for worker in ranks.workers]
        ranks.workers[victim].child.kill()
        other = ranks.workers[1 - victim]
        until(lambda other=other: not serving.is_ready(other.ops), "the other member is not ready", NOTICED_SECONDS_MAX)
        missing = "waiting for ranks [2, 3] of 4" if victim else "rank 0 is lost"
        until(lambda: missing in httpx.get(f"{other.ops}/readyz", timeout=5).text, missing, 5)
        ranks.workers[victim].stop()
        ranks.restart(victim)
        for worker in ranks.workers:
            until(lambda worker=worker: serving.is_ready(worker.ops), "every member is ready", BACK_SECONDS_MAX)
        assert {question: text(ranks.workers[0], question) for question in QUESTIONS} == alone
        assert ranks.workers[1 - victim].child.pid == pids[1 - victim]


def stream(worker, prompt, seen):
    """Streams one answer to the end or to its error, and notes what came."""
    body = {"model": "m", "prompt": prompt, "max_tokens": 200, "temperature": 0, "stream": True, "ignore_eos": True}
    try:
        with httpx.stream("POST", f"{worker.address}/v1/completions", json=body, timeout=60) as response:
            seen.append(response.status_code)
            for line in response.iter_lines():
                seen.append(line)
    except httpx.TransportError as error:
        seen.append(error)


@pytest.mark.parametrize("ranks", [(3, 1)], indirect=True)
def test_each_rank_is_lost_in_turn_and_the_others_go_on(ranks, alone):
    for victim in (1, 2, 0):
        pids = [worker.child.pid for worker in ranks.workers]
        seen = []
        streaming = threading.Thread(target=stream, args=(ranks.workers[0], "Once", seen))
        streaming.start()
        until(lambda seen=seen: len(seen) > 3, "the answer has begun", 30)
        ranks.workers[victim].child.kill()
        killed = time.monotonic()
        if victim:
            until(lambda: not ranks.is_ready(), "rank 0 is not ready", NOTICED_SECONDS_MAX)
            assert ask(ranks.workers[0], "hello").json()["error"]["code"] == "model_not_ready"
        streaming.join(30)
        assert not streaming.is_alive() and "data: [DONE]" not in seen, seen[-2:]
        ranks.workers[victim].stop()
        ranks.restart(victim)
        ranks.wait_ready(BACK_SECONDS_MAX)
        assert time.monotonic() - killed < BACK_SECONDS_MAX + NOTICED_SECONDS_MAX
        assert {question: text(ranks.workers[0], question) for question in QUESTIONS} == alone
        still = [worker.child.pid for worker in ranks.workers]
        assert [old == new for old, new in zip(pids, still, strict=True)] == [rank != victim for rank in range(3)]


@pytest.mark.parametrize("ranks", [(3, 1), (1, 2)], indirect=True)
def test_a_rank_that_is_slow_is_waited_for(ranks, alone):
    question = QUESTIONS[0]
    slow = ranks.workers[1].child.pid
    os.kill(slow, signal.SIGSTOP)
    timer = threading.Timer(5, os.kill, (slow, signal.SIGCONT))
    timer.start()
    assert text(ranks.workers[0], question) == alone[question]
    timer.join()


@pytest.mark.parametrize("ranks", [(1, 2), (1, 4, 2)], indirect=True)
def test_whichever_member_is_asked_to_go_nothing_is_cut(ranks):
    seen = []
    streaming = threading.Thread(target=stream, args=(ranks.workers[0], "Once upon a time", seen))
    streaming.start()
    until(lambda: len(seen) > 3, "the answer has begun", 30)
    ranks.workers[1].child.terminate()
    streaming.join(60)
    assert "data: [DONE]" in seen, seen[-3:]
    # Member 0 goes when its last answer is out, and the other when member 0 has gone.
    assert [worker.child.wait(30) for worker in ranks.workers] == [0, 0]


def test_a_split_that_cannot_be_is_refused_with_those_that_can(tmp_path):
    ranks = Ranks(tmp_path, 2, 1)
    try:
        for worker in ranks.workers:
            assert worker.child.wait(60) == 2
            assert "2 ranks cannot share 9 query heads evenly; splits that work: 1, 3, 9" in worker.log_tail()
    finally:
        ranks.stop()
