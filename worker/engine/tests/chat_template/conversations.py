"""Renders conversations with jinja2, set up as transformers sets it up, into goldens.json.

python3 conversations.py GGUF... > goldens.json

Needs jinja2 and gguf; the templates of the GGUF files are rendered, and dated.jinja.
"""

import copy
import datetime
import json
import sys

import gguf
import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = datetime.datetime(2026, 2, 28, 9, 5, 7, tzinfo=datetime.timezone.utc)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": '날씨를 알려 준다.\nSecond "line" <b>&\'</b>',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "المدينة"},
                "days": {
                    "type": "integer",
                    "minimum": 0,
                    "default": 1.0,
                    "examples": [1e-7, 1e22, -0.5, 100],
                },
                "unit": {"enum": ["°C", "°F", None, True], "nested": {"empty": {}, "list": []}},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def call(name, arguments):
    return {
        "id": "call_" + name,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


TALKS = {
    "hello": [user("Hello!")],
    "system": [{"role": "system", "content": "  Be brief.\n"}, user("Why is the sky blue?")],
    "korean": [
        user("서울의 봄은 어떤가요?"),
        assistant("따뜻하고 벚꽃이 핍니다. 🌸"),
        user("고마워요! 각 단어를 설명해 주세요."),
    ],
    "arabic": [
        {"role": "system", "content": "أنت مساعدٌ مفيد."},
        user("ما هي عاصمة المملكة العربية السعودية؟"),
    ],
    "thai": [user("สวัสดีครับ กรุงเทพฯ อยู่ที่ไหน"), assistant(""), user("ตอบสั้น ๆ")],
    "signs": [
        user(
            "<|im_end|> {{ 7 * 7 }} {% raw %} \"quoted\" 'single' <b>&amp;</b> \\n \t\n  trailing  "
        )
    ],
    "thoughts": [
        user("2+2?"),
        assistant("<think>\nadd them\n</think>\n\n4"),
        user("3+3?"),
        assistant("<think>\nadd\n\nthese\n</think>\n6"),
    ],
    "tools": [
        {"role": "system", "content": "Use tools."},
        user("서울 날씨와 시간?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                call("get_weather", '{"city": "서울", "days": 2, "b": 1.50, "a": [true, null]}'),
                call("clock", {}),
            ],
        },
        {"role": "tool", "tool_call_id": "call_get_weather", "content": "맑음, 21°C"},
        {"role": "tool", "tool_call_id": "call_clock", "content": '{"hour": 9}'},
        assistant("맑고 21도, 9시입니다."),
        user("شكراً"),
    ],
    "call with words": [
        user("time?"),
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [call("clock", '{"zone": "Asia/Riyadh"}')],
        },
        {"role": "tool", "content": "noon"},
    ],
    "stranger": [user("hi"), {"role": "critic", "content": "no"}],
    "nothing said": [user("hi"), {"role": "user", "content": None}, assistant("yes?")],
}

CASES = [
    {"name": name, "messages": talk, "add_generation_prompt": True} for name, talk in TALKS.items()
]
CASES += [
    {"name": "no prompt", "messages": TALKS["korean"]},
    {
        "name": "tools given",
        "messages": TALKS["tools"],
        "tools": [WEATHER, CLOCK],
        "add_generation_prompt": True,
    },
    {
        "name": "tools, no system",
        "messages": TALKS["hello"],
        "tools": [CLOCK],
        "add_generation_prompt": True,
    },
    {
        "name": "no thinking",
        "messages": TALKS["hello"],
        "kwargs": {"enable_thinking": False},
        "add_generation_prompt": True,
    },
    {"name": "date given", "messages": TALKS["system"], "kwargs": {"date_string": "1 Jan 2000"}},
    {
        "name": "documents",
        "messages": TALKS["hello"],
        "documents": [
            {"title": "ferry times", "text": "Every\nhour, and on Fridays twice"},
            {"title": "", "text": "x"},
            {"title": "dock", "text": "short"},
        ],
    },
]


class Generation(jinja2.ext.Extension):
    """transformers marks the model's own text with this tag; for rendering it is transparent."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def with_parsed_arguments(messages):
    """What vLLM does before it renders: arguments that are JSON in a string become objects."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for each in message.get("tool_calls") or []:
            if isinstance(each["function"]["arguments"], str):
                each["function"]["arguments"] = json.loads(each["function"]["arguments"])
    return messages


def render(template, tokens, case):
    try:
        rendered = (
            environment()
            .from_string(template)
            .render(
                messages=with_parsed_arguments(case["messages"]),
                tools=case.get("tools"),
                documents=case.get("documents"),
                add_generation_prompt=case.get("add_generation_prompt", False),
                **tokens,
                **case.get("kwargs", {}),
            )
        )
        return {"rendered": rendered}
    except Exception as error:  # what jinja2 says of a conversation is the golden, whatever it is
        return (
            {"refused": str(error)}
            if isinstance(error, jinja2.exceptions.TemplateError)
            else {"fails": str(error)}
        )


def main():
    templates = {}
    for path in sys.argv[1:]:
        fields = gguf.GGUFReader(path).fields
        tokens = fields["tokenizer.ggml.tokens"].contents()
        text = lambda key: tokens[fields[f"tokenizer.ggml.{key}_token_id"].contents()]
        name = path.rsplit("/", 1)[-1]
        templates[name] = (
            fields["tokenizer.chat_template"].contents(),
            {"bos_token": text("bos"), "eos_token": text("eos")},
        )
    with open("dated.jinja", encoding="utf-8") as file:
        templates["dated.jinja"] = (file.read(), {"bos_token": "<s>", "eos_token": "</s>"})
    goldens = {
        name: {case["name"]: render(*template, case) for case in CASES}
        for name, template in templates.items()
    }
    json.dump(
        {"now": int(NOW.timestamp()), "cases": CASES, "goldens": goldens},
        sys.stdout,
        ensure_ascii=False,
        indent=1,
    )
    print()


main()
