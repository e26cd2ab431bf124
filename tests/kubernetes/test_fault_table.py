"""The fault table of docs/operating.md is the one that is tested: each reason once, as it was seen, its command too."""

from fault_table import commands, faults, matches, rows
from faults import FAULTS, ON_ONE_MACHINE

PROVOKED = {fault.reason: fault.message for fault in (*FAULTS, ON_ONE_MACHINE) if not fault.way}


def test_every_fault_has_one_row():
    listed = [reason for reason, _, _ in rows()]
    assert sorted(listed) == sorted(faults())


def test_every_row_is_provoked_and_shows_what_was_seen():
    assert {reason: message for reason, message, _ in rows()} == PROVOKED
    assert len([fault for fault in FAULTS if not fault.way]) == len(PROVOKED) - 1, "each reason once"


def test_every_row_has_the_command_that_the_condition_gives():
    assert {reason: command for reason, _, command in rows()} == {reason: commands()[reason] for reason in faults()}


def test_messages_are_compared_but_for_what_differs():
    assert matches("pods … is forbidden: …", 'pods "x" is forbidden: no')
    assert not matches("pods … is forbidden", 'pods "x" is forbidden: no')
    assert not matches("a.c", "abc")
