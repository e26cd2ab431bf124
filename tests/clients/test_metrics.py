"""docs/reference/metrics.md says what the running processes say. `UPDATE=1 make clients PYTEST="-k metrics"` rewrites it."""

import os
import re

import httpx

import serving

PAGE = serving.REPOSITORY / "docs" / "reference" / "metrics.md"
HEAD = """# Metrics

Generated from running processes: `UPDATE=1 make clients PYTEST="-k metrics"`. A metric with labels appears once something has happened to count.
"""


def described(url):
    """Rows of a table: name, kind, labels and help of everything exported there."""
    text = httpx.get(url).raise_for_status().text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    rows = {}
    for name, help_text in re.findall(r"^# HELP (\S+) (.*)$", text, re.M):
        found = set(re.findall(rf"^{re.escape(name)}(?:_bucket|_sum|_count)?\{{(.*?)\}}", text, re.M))
        labels = sorted({label for one in found for label in re.findall(r"(\w+)=\"", one)} - {"le"})
        rows[name] = f"| `{name}` | {kinds[name]} | {', '.join(labels)} | {help_text} |"
    return rows


def test_every_metric_is_in_the_reference(client, platform, worker, tmp_path):
    client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
    body = {"model": "smollm2", "prompt": "Hi", "max_tokens": 2}
    httpx.post(f"{worker.address}/v1/completions", json=body).raise_for_status()
    parts = {
        "`naru up`": described(f"{platform.ops}/metrics"),
        "`naru-worker`": described(f"{worker.ops}/metrics"),
    }
    simulated = serving.Worker(tmp_path, "sim://llama-3.1-8b-h100", "--backend", "sim", name="sim").wait_ready()
    try:
        rows = described(f"{simulated.ops}/metrics")
    finally:
        simulated.stop()
    known = parts["`naru-worker`"]
    parts["`naru-worker --backend sim`, besides those"] = {name: row for name, row in rows.items() if name not in known}
    for rows in parts.values():
        for name in rows:
            assert name.startswith(("naru_", "vllm:", "process_")), name
            assert not name.startswith("naru_") or "_total" in name or "| counter |" not in rows[name], name
    if os.environ.get("UPDATE"):
        tables = [
            "\n".join([f"\n## {part}\n", "| name | kind | labels | what |", "| --- | --- | --- | --- |", *rows.values(), ""])
            for part, rows in parts.items()
        ]
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(HEAD + "".join(tables))
    page = PAGE.read_text()
    missing = [row for rows in parts.values() for row in rows.values() if row not in page]
    assert not missing, 'run UPDATE=1 make clients PYTEST="-k metrics":\n' + "\n".join(missing)
