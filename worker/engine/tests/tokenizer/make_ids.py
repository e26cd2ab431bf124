"""Asks llama.cpp for the ids of awkward texts, into ids.json.

python3 make_ids.py NAME=GGUF... > ids.json

Needs xllamacpp and httpx. What people write is in the fixtures of tests/peers; this is the rest.
"""

import json
import os
import random
import sys

import httpx
import xllamacpp

AWKWARD = [
    "",
    " ",
    "   \n",
    "\n\n \t x",
    "a\r\nb\r\n\r\nc",
    "\t\tint x = 10;\n\t\treturn 1234567890;",
    "12345 678 9 ½ ² ٣٤٥ ๑๒๓ Ⅷ 一二三 ①",
    "👨\u200d👩\u200d👧\u200d👦👩🏽\u200d🚀🇰🇷🇸🇦🇹🇭 ok",
    "don't DON'T we'Ve I'LL 'S 'ſ ''s 's's",
    "\u00a0x\u2003y\u3000z\u0085w\u2028v",
    "한국어 테스트입니다. \u1112\u1161\u11ab ㅋㅋㅋ ㅠㅠ",
    "أهلاً وسهلاً، كيف حالك؟ ١٢٣",
    "สวัสดีครับ ๑๒๓ กำลังไป",
    "日本語テキスト、改行\nあり。",
    "e\u0301 क्षि നമസ്കാരം",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    '<tool_call>\n{"name": 1}\n</tool_call>',
    " <|im_start|> <|im_start|><|im_start|",
    "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|><file_sep><repo_name>",
    "a" * 120,
    " " * 120,
    "\n" * 60,
    "=-" * 60,
    "\x00\x01\x1f\x7f\ufeff\ufffd\u200b",
    "def f(x):\n    return x**2\n\n\nclass A:\n\tpass",
    "http://example.com/?q=1&x=%20#frag",
    "!!!???...,,,;;;::: …\n\n",
    "3.14e-10 1,234,567.89 x²³ y₁",
    "[PAD151665]",
    "𐍈𝔘𝕟𝕚𝕔𝕠𝕕𝕖 𓀀 \U0010ffff",
]
PIECES = list("aZ sStTdmlrev'0129 \n\r\t.,!?<|>=+^~$-_\u00a0\u3000한국ᄒสัعً٣½😀\u200d🏽🇰éſ、€")
PIECES += ["<|im_start|>", "<|endoftext|>", "<tool_call>", "   ", "\r\n", "'s", "'LL", "ing"]


def texts():
    chosen = random.Random(7)
    mixed = ["".join(chosen.choices(PIECES, k=chosen.randint(1, 40))) for _ in range(100)]
    return AWKWARD + mixed


def ids(path, client):
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.n_ctx, params.warmup = path, 0, 256, False
    server = xllamacpp.Server(params)
    url = server.listening_address + "/tokenize"

    def ask(text, special):
        body = {"content": text, "add_special": False, "parse_special": special}
        return client.post(url, json=body).raise_for_status().json()["tokens"]

    return [[ask(text, special) for special in (False, True)] for text in texts()]


def main():
    named = [argument.split("=", 1) for argument in sys.argv[1:]]
    with httpx.Client(timeout=60) as client:
        answers = {name: ids(path, client) for name, path in named}
    lines = [json.dumps(text, ensure_ascii=False) for text in texts()]
    models = [f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in answers.items()]
    body = '{"texts": [\n' + ",\n".join(lines) + "\n],\n" + ",\n".join(models) + "}"
    sys.stdout.write(body.replace("]], [[", "]],\n[[") + "\n")
    sys.stdout.flush()
    os._exit(0)  # the server's threads would keep the process alive


main()
