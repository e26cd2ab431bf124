"""Plain completions through the official client."""

import httpx
import pytest

PROMPT = "The capital of France is"


def complete(client, prompt=PROMPT, **options):
    options = {"max_tokens": 12, "temperature": 0} | options
    return client.completions.create(model="smollm2", prompt=prompt, **options)


def tokenize(worker, text):
    body = {"model": "smollm2", "prompt": text, "add_special_tokens": False}
    return httpx.post(f"{worker.address}/tokenize", json=body).raise_for_status().json()["tokens"]


def test_a_prompt_is_continued(client):
    answer = complete(client)
    assert answer.object == "text_completion"
    assert "Paris" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12


def test_a_stream_says_what_a_whole_answer_says(client):
    whole = complete(client)
    options = {"include_usage": True}
    *chunks, last = complete(client, stream=True, stream_options=options)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_several_prompts_each_get_their_answers(client):
    answer = complete(client, ["One, two,", PROMPT], n=2, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = [complete(client, prompt, max_tokens=4).choices[0].text for prompt in ("One, two,", PROMPT)]
    assert [choice.text for choice in answer.choices] == [alone[0], alone[0], alone[1], alone[1]]


def test_token_ids_are_a_prompt(client, worker):
    ids = tokenize(worker, PROMPT)
    assert complete(client, ids).choices[0].text == complete(client).choices[0].text
    both = complete(client, [ids, ids[:3]])
    assert len(both.choices) == 2
    assert both.choices[0].text == complete(client).choices[0].text


def test_echo_gives_the_prompt_back(client):
    echoed = complete(client, echo=True, max_tokens=4).choices[0].text
    assert echoed == PROMPT + complete(client, max_tokens=4).choices[0].text


def test_logprobs_have_the_shape_of_completions(client):
    logprobs = complete(client, logprobs=3, max_tokens=5).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 5
    assert all(value <= 0 for value in logprobs.token_logprobs)
    assert all(len(top) >= 3 for top in logprobs.top_logprobs)
    assert logprobs.text_offset == sorted(logprobs.text_offset)


@pytest.mark.parametrize("stop", ["\n", ["Paris", "zzz"]])
def test_an_answer_ends_before_its_stop_string(client, stop):
    choice = complete(client, stop=stop, max_tokens=60).choices[0]
    assert not any(word in choice.text for word in ([stop] if isinstance(stop, str) else stop))


def test_a_stop_token_ends_an_answer(client, worker):
    [paris] = tokenize(worker, " Paris")
    choice = complete(client, extra_body={"stop_token_ids": [paris]}).choices[0]
    assert choice.finish_reason == "stop"
    assert "Paris" not in choice.text


def test_text_becomes_tokens_and_text_again(worker):
    text = "나루는 배가 닿는 곳이다. ท่าเรือ ⛴️ مرسى"
    body = {"model": "smollm2", "prompt": text, "return_token_strs": True}
    told = httpx.post(f"{worker.address}/tokenize", json=body).raise_for_status().json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == 2048
    body = {"model": "smollm2", "tokens": told["tokens"]}
    assert httpx.post(f"{worker.address}/detokenize", json=body).json()["prompt"] == text
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hello"}]}
    chat = httpx.post(f"{worker.address}/tokenize", json=body).raise_for_status().json()
    assert chat["count"] > len(tokenize(worker, "Hello"))
