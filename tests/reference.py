"""The pages of docs/reference that say which metrics there are, and what running processes say.

`UPDATE=1` has the tests that compare the two write the page anew.
"""

import os
import re

import httpx

import serving

FOLDER = serving.REPOSITORY / "docs" / "reference"
HEAD = "| name | kind | labels | what |\n| --- | --- | --- | --- |\n"


def described(url):
    """Rows of a table, by name: name, kind, labels and help of everything exported there."""
    text = httpx.get(url, timeout=10).raise_for_status().text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    rows = {}
    for name, help_text in re.findall(r"^# HELP (\S+) (.*)$", text, re.M):
        found = set(re.findall(rf"^{re.escape(name)}(?:_bucket|_sum|_count)?\{{(.*?)\}}", text, re.M))
        labels = sorted({label for one in found for label in re.findall(r"(\w+)=\"", one)} - {"le"})
        rows[name] = f"| `{name}` | {kinds[name]} | {', '.join(labels)} | {help_text} |"
    return rows


def written(page):
    """The tables of a page, by the headings above them."""
    parts = (FOLDER / page).read_text().split("\n## ")[1:]
    return {
        part.split("\n", 1)[0]: {name: row for row, name in re.findall(r"^(\| `(\S+)` \|.*)$", part, re.M)} for part in parts
    }  # fmt: skip


def compare(page, introduction, parts, how):
    """Fails unless the page has exactly these tables. Rewrites it first, if that is wished."""
    if os.environ.get("UPDATE"):
        tables = (f"\n## {part}\n\n{HEAD}" + "".join(f"{row}\n" for row in rows.values()) for part, rows in parts.items())
        (FOLDER / page).write_text(introduction + "".join(tables))
    assert written(page) == parts, f"docs/reference/{page} is not what runs: {how}"
