"""Chat through the official client: what is answered, and that the same is answered again."""

import math

import httpx
import pytest

MODELS = ["smollm2", "qwen"]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


def ask(client, model="smollm2", messages=QUESTION, **options):
    options = {"max_tokens": 32, "temperature": 0} | options
    return client.chat.completions.create(model=model, messages=messages, **options)


def text_of(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


@pytest.mark.parametrize("model", MODELS)
def test_a_question_is_answered(client, model):
    answer = ask(client, model)
    assert answer.object == "chat.completion"
    assert answer.model == model
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert "sky" in choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 32
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_says_what_a_whole_answer_says(client, model):
    whole = ask(client, model)
    chunks = list(ask(client, model, stream=True))
    assert text_of(chunks) == whole.choices[0].message.content
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason
    assert set(reasons[:-1]) == {None}


def test_usage_is_streamed_where_it_is_asked_for(client):
    whole = ask(client)
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.usage is None for chunk in ask(client, stream=True))


def test_tokens_come_with_their_logprobs(client):
    answer = ask(client, logprobs=True, top_logprobs=5, max_tokens=8)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens or answer.choices[0].finish_reason == "stop"
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 5
        falling = [top.logprob for top in token.top_logprobs]
        assert falling == sorted(falling, reverse=True)
        assert math.isclose(token.logprob, falling[0], abs_tol=1e-6), "greedy takes the likeliest"
        assert bytes(token.bytes).decode(errors="replace")
    joined = b"".join(bytes(token.bytes) for token in content).decode()
    assert joined.startswith(answer.choices[0].message.content)


def test_a_stream_has_the_same_logprobs(client):
    whole = ask(client, logprobs=True, top_logprobs=2, max_tokens=8)
    chunks = list(ask(client, logprobs=True, top_logprobs=2, max_tokens=8, stream=True))
    parts = [c.logprobs.content or [] for chunk in chunks for c in chunk.choices if c.logprobs]
    streamed = [token for part in parts for token in part]
    assert [t.token for t in streamed] == [t.token for t in whole.choices[0].logprobs.content]


def test_several_choices_differ_in_their_draws(client):
    answer = ask(client, n=4, temperature=1.5, seed=3, max_tokens=16)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage.completion_tokens <= 4 * 16


def test_several_choices_are_streamed_side_by_side(client):
    whole = ask(client, n=3, temperature=1, seed=5, max_tokens=12)
    chunks = list(ask(client, n=3, temperature=1, seed=5, max_tokens=12, stream=True))
    for choice in whole.choices:
        assert text_of(chunks, choice.index) == choice.message.content


def test_one_seed_is_one_answer(client):
    options = {"temperature": 1.2, "top_p": 0.95, "max_tokens": 24}
    first = ask(client, seed=7, **options).choices[0].message.content
    again = ask(client, seed=7, **options).choices[0].message.content
    others = {ask(client, seed=seed, **options).choices[0].message.content for seed in range(8, 12)}
    assert first == again
    assert others != {first}


def test_an_answer_ends_before_its_stop_string(client):
    whole = ask(client).choices[0].message.content
    assert " sky" in whole
    stopped = ask(client, stop=[" sky"]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == whole[: whole.index(" sky")]
    # A stop string that lies across chunks is never streamed in part.
    chunks = list(ask(client, stop=[" sky"], stream=True))
    assert text_of(chunks) == stopped.message.content


def test_an_answer_ends_after_max_tokens(client):
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        answer = client.chat.completions.create(model="smollm2", messages=QUESTION, **limit)
        assert answer.usage.completion_tokens == 3
        assert answer.choices[0].finish_reason == "length"


def test_a_biased_token_is_always_or_never_drawn(client, worker):
    def token(text):
        body = {"model": "smollm2", "prompt": text, "add_special_tokens": False}
        return httpx.post(f"{worker.address}/tokenize", json=body).json()["tokens"][0]

    def draw(**bias):
        return client.completions.create(
            model="smollm2", prompt="The capital of France is", max_tokens=1, temperature=0, **bias
        ).choices[0].text  # fmt: skip

    greedy = draw()
    assert draw(logit_bias={token(" banana"): 100}) in " banana"
    assert draw(logit_bias={token(greedy): -100}) != greedy


def test_a_system_message_and_a_conversation_reach_the_template(client):
    messages = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "My name is Hodu."},
        {"role": "assistant", "content": "Ahoy, Hodu!"},
        {"role": "user", "content": [{"type": "text", "text": "What is my name?"}]},
    ]
    longer = ask(client, messages=messages)
    shorter = ask(client, messages=messages[-1:])
    assert longer.usage.prompt_tokens > shorter.usage.prompt_tokens
    assert longer.choices[0].message.content != shorter.choices[0].message.content


def test_extras_of_vllm_are_understood(client):
    extra = {"ignore_eos": True, "min_tokens": 40, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    answer = ask(client, max_tokens=40, extra_body=extra)
    assert answer.usage.completion_tokens == 40
    assert answer.choices[0].finish_reason == "length"


def test_models_are_listed(client):
    names = {model.id for model in client.models.list()}
    assert names == set(MODELS)
    assert client.models.retrieve("qwen").id == "qwen"
