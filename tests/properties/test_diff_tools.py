"""Hunks of every shape in files where places are easily confused: what we accept and apply, the tools apply alike.

The reverse does not hold and need not: we refuse much that some tool accepts.
"""

from __future__ import annotations

import difflib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.diff import parse_diff_untrusted
from provenance.diff_apply import apply_diff, split_lines
from provenance.diff_hunks import CONTEXT_LINES
from provenance.diff_lint import LintRule, lint_diff
from tests.testkit.appliers import GNU_TOOLS, Tool, run_tool
from tests.testkit.diffs import regular
from wire.errors import RejectedError

TOOLS = (Tool.GIT_APPLY, *GNU_TOOLS)


def random_lines(chance: random.Random) -> tuple[list[bytes], list[bytes]]:
    """Return a file of few different lines, and an edited version."""
    letters = chance.choice([1, 2, 3, 8])

    def line() -> bytes:
        return b"%c\n" % (97 + chance.randrange(letters + 1))

    old = [line() for _ in range(chance.choice([0, 1, 2, 3, 5, 8, 14, 25]))]
    new = list(old)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        at = chance.randrange(len(new) + 1)
        new[at : at + chance.choice([0, 0, 1, 2])] = [line() for _ in range(chance.choice([0, 1, 1, 2]))]
    for lines in (old, new):
        if lines and chance.random() < 0.15:
            lines[-1] = lines[-1][:-1]
    return split_lines(b"".join(old)), split_lines(b"".join(new))


def random_hunks(chance: random.Random, old: list[bytes], new: list[bytes]) -> bytes:
    """Return hunks for the change with any amount of context, now and then with a false place."""
    before, after = (chance.choice([0, 1, 2, 3, 3, 3, 4, 5]) for _ in range(2))
    blocks = [
        block[1:]
        for block in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if block[0] != "equal"
    ]
    text: list[bytes] = []
    end = shift = 0
    for number, (old_begin, old_end, new_begin, new_end) in enumerate(blocks):
        low = max(end, old_begin - before)
        high = min(blocks[number + 1][0] if number + 1 < len(blocks) else len(old), old_end + after)
        lines = [b" " + line for line in old[low:old_begin]] + [b"-" + line for line in old[old_begin:old_end]]
        lines += [b"+" + line for line in new[new_begin:new_end]] + [b" " + line for line in old[old_end:high]]
        old_count, new_count = high - low, high - low - (old_end - old_begin) + (new_end - new_begin)
        error = chance.choice([-1, 1, 2]) if chance.random() < 0.1 else 0
        old_start = max(0, low + (1 if old_count else 0) + error)
        new_start = max(0, low + shift + (1 if new_count else 0) + error)
        ranges = [
            b"%d" % start if count == 1 else b"%d,%d" % (start, count)
            for start, count in ((old_start, old_count), (new_start, new_count))
        ]
        text.append(b"@@ -%s +%s @@\n" % tuple(ranges))
        text += [line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in lines]
        end, shift = high, shift + (new_end - new_begin) - (old_end - old_begin)
    return b"".join(text)


def random_diff(chance: random.Random) -> tuple[bytes, bytes]:
    """Return a file and a diff for it, which may be wrong."""
    old, new = random_lines(chance)
    hunks = random_hunks(chance, old, new)
    text = b"diff --git a/f b/f\n--- a/f\n+++ b/f\n" + hunks
    lines = text.splitlines(keepends=True)
    if hunks and chance.random() < 0.3:
        at = chance.randrange(3, len(lines))
        lines[at : at + chance.randrange(2)] = chance.choice(
            [[], [b" a\n"], [b"-a\n"], [b"+a\n"], [b"@@ -1 +1 @@\n"], [b"\n"]]
        )
    return b"".join(old), b"".join(lines)


def compare(content: bytes, text: bytes) -> bool:
    """Return whether we apply the diff; if we do, check that every tool leaves the same tree."""
    pre = {"f": regular(content), "keep": regular(b"")}
    try:
        diff = parse_diff_untrusted(text)
        post = {**pre, **apply_diff(diff, pre)}
    except RejectedError:
        return False
    limited = any(finding.rule is LintRule.BUSYBOX for finding in lint_diff(diff, pre))
    for tool in TOOLS if limited or not Tool.BUSYBOX.is_installed else (*TOOLS, Tool.BUSYBOX):
        outcome = run_tool(tool, pre, text)
        assert outcome.accepted, (tool, outcome.output)
        assert outcome.tree == post, tool
    return True


@pytest.mark.slow
@settings(max_examples=150)
@given(st.integers(0, 2**64))
def test_what_we_apply_every_tool_applies_alike(seed: int) -> None:
    compare(*random_diff(random.Random(seed)))


def test_the_generator_makes_diffs_that_we_apply_and_diffs_that_we_refuse() -> None:
    applied = 0
    for seed in range(300):
        content, text = random_diff(random.Random(seed))
        try:
            apply_diff(parse_diff_untrusted(text), {"f": regular(content)})
        except RejectedError:
            continue
        applied += 1
    assert 60 < applied < 240


@pytest.mark.slow
def test_without_the_rule_about_context_tools_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: with any context accepted, it does."""
    assert CONTEXT_LINES == 3
    monkeypatch.setattr("provenance.diff_hunks.CONTEXT_LINES", 0)
    monkeypatch.setattr("provenance.diff_apply.CONTEXT_LINES", 0)

    def compare_many() -> None:
        for seed in range(2000):
            compare(*random_diff(random.Random(seed)))

    with pytest.raises(AssertionError, match=r"Tool\.GIT_APPLY"):
        compare_many()
