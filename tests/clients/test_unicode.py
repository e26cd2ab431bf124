"""Streams end their chunks where a person would see a character end, in every script."""

import regex

import pytest

PROMPTS = {
    "korean": "다음 문장을 한국어로 이어 쓰세요: 나루는",
    "thai": "เขียนต่อเป็นภาษาไทย: กรุงเทพมหานคร",
    "arabic": "أكمل بالعربية: عاصمة المملكة العربية السعودية",
    "emoji": "Repeat exactly: 👩‍👩‍👧‍👦 🇰🇷 👍🏽 ❤️‍🔥 é ก็ำ",
}


def clusters(text):
    return regex.findall(r"\X", text)


@pytest.mark.parametrize("language", PROMPTS)
@pytest.mark.parametrize("model", ["qwen", "smollm2"])
def test_chunks_end_at_grapheme_clusters(client, model, language):
    messages = [{"role": "user", "content": PROMPTS[language]}]
    options = {"model": model, "messages": messages, "max_tokens": 48, "temperature": 0}
    whole = client.chat.completions.create(**options).choices[0].message.content
    chunks = client.chat.completions.create(**options, stream=True)
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == whole
    # Cutting into clusters piece by piece gives the clusters of the whole.
    assert [cluster for piece in pieces for cluster in clusters(piece)] == clusters(whole)


def test_a_prompt_in_every_script_comes_back_whole(client):
    text = "나루 ท่าเรือ مرسى 👩‍👩‍👧‍👦 e\u0301"
    answer = client.completions.create(model="qwen", prompt=text, max_tokens=1, echo=True, temperature=0)
    assert answer.choices[0].text.startswith(text)
