"""The fault table of docs/operating.md, and what the program's own page of reasons says."""

import functools
import re

from serving import REPOSITORY

OPERATING = REPOSITORY / "docs" / "operating.md"
REASONS = REPOSITORY / "docs" / "reference" / "conditions.md"
HEAD = "| reason | what the message says | first |"
ANYTHING = "…"


def cells(line):
    """The cells of a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def code(cell):
    """What is written as code in a cell; nothing in an empty one."""
    return cell.strip("`").strip() if "`" in cell else ""


@functools.cache
def reasons():
    """By reason, from the page that is made from the program: what to do, and the command."""
    rows = [cells(line) for line in REASONS.read_text().splitlines() if line.startswith("| `")]
    return {code(reason): (remedy, command) for reason, _, remedy, command in map(four, rows)}


def four(row):
    return (row + [""])[:4]


def commands():
    return {reason: code(command) for reason, (_, command) in reasons().items()}


def faults():
    """The reasons for which somebody has something to do, and not only to wait."""
    return {reason for reason, (remedy, _) in reasons().items() if remedy.split()[0].strip(",;.") not in PATIENCE}


PATIENCE = ("Nothing", "Wait")


def rows():
    """The fault table: reason, message and command of each row."""
    lines = OPERATING.read_text().splitlines()
    [start] = [number for number, line in enumerate(lines) if line == HEAD]
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append(tuple(map(code, cells(line))))
    return table


def matches(shown, message):
    """Whether a message is as shown; `…` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, shown.split(ANYTHING))), message, re.DOTALL) is not None
