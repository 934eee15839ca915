"""Findings: what hides in accepted lines, and what busybox patch would do differently."""

from __future__ import annotations

import pytest

from provenance import diff_lint
from provenance.diff import parse_diff_untrusted
from provenance.diff_lint import FINDINGS_MAX, Finding, LintRule, find_hidden_text, lint_diff
from provenance.diff_make import make_diff
from tests.testkit.diffs import BASE, CHANGES, insert, regular


def lint_line(text: bytes) -> list[tuple[LintRule, int]]:
    diff = parse_diff_untrusted(make_diff({"a": regular(BASE)}, {"a": regular(insert(BASE, 10, text + b"\n"))}))
    return [(finding.rule, finding.line) for finding in lint_diff(diff)]


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("access_level != \u202e\u2066", [LintRule.BIDIRECTIONAL]),
        ("a\u2066b", [LintRule.BIDIRECTIONAL]),
        ("a\u200bb", [LintRule.INVISIBLE]),
        ("a\ufeffb", [LintRule.INVISIBLE]),
        ("evil()\rgood()", [LintRule.CARRIAGE_RETURN]),
        ("\x1b[2K", [LintRule.CONTROL]),
        ("p\u0430ssword = 1", [LintRule.MIXED_SCRIPT]),
        ("\u03c1assword = 1", [LintRule.MIXED_SCRIPT]),
        ("windows line\r", [LintRule.MAIL_LINE_END]),
        (
            "\u202e\u200b\r\x1b.",
            [LintRule.CARRIAGE_RETURN, LintRule.BIDIRECTIONAL, LintRule.INVISIBLE, LintRule.CONTROL],
        ),
        ("ordinary\ttext\x0c", []),
        ("слово и word, Ωμέγα, 日本, é", []),
    ],
)
def test_what_hides_in_an_added_line_is_found_at_its_line(text: str, rules: list[LintRule]) -> None:
    # Header of four lines, hunk header, three lines of context.
    assert lint_line(text.encode()) == [(rule, 9) for rule in rules]


def test_bytes_that_are_no_utf8_are_looked_at_as_well() -> None:
    assert lint_line(b"\xff\x1b") == [(LintRule.CONTROL, 9)]
    assert lint_line(b"\xff") == []


def test_a_removed_line_hides_nothing() -> None:
    diff = parse_diff_untrusted(make_diff({"a": regular(b"x\x1b\ny\n")}, {"a": regular(b"y\n")}))
    assert lint_diff(diff) == ()


def test_lines_are_counted_over_all_sections() -> None:
    content = b"x\x1b"
    text = make_diff({}, {"a": regular(content), "b": regular(b"y\n" + content)})
    found = [finding for finding in lint_diff(parse_diff_untrusted(text)) if finding.rule is LintRule.CONTROL]
    assert [(finding.path, finding.line) for finding in found] == [("a", 7), ("b", 16)]
    assert all(b"\x1b" in text.split(b"\n")[finding.line - 1] for finding in found)


def test_hidden_text_is_found_behind_any_number_of_findings() -> None:
    lines = b"\x1b\n" * (FINDINGS_MAX + 1) + "access \u202e\n".encode() + b"evil()\rgood()\n"
    diff = parse_diff_untrusted(make_diff({}, {"a": regular(lines)}))
    assert {finding.rule for finding in lint_diff(diff)} == {LintRule.CONTROL}
    assert find_hidden_text(diff) == {LintRule.CONTROL, LintRule.BIDIRECTIONAL, LintRule.CARRIAGE_RETURN}
    plain = parse_diff_untrusted(make_diff({"a": regular(b"\x1b\n")}, {"a": regular(b"x\ty\r\n"), "b": regular(b"z")}))
    assert find_hidden_text(plain) == frozenset()


def test_a_carriage_return_before_the_end_of_the_file_is_one_before_a_line_end_of_the_diff() -> None:
    diff = parse_diff_untrusted(make_diff({}, {"a": regular(b"\xff\r")}))
    assert LintRule.MAIL_LINE_END in {finding.rule for finding in lint_diff(diff)}


@pytest.mark.parametrize("name", CHANGES)
def test_what_busybox_patch_cannot_do_is_found(name: str) -> None:
    change = CHANGES[name]
    diff = parse_diff_untrusted(change.make())
    found = [finding for finding in lint_diff(diff, change.pre) if finding.rule is LintRule.BUSYBOX]
    assert (found == []) == change.busybox


def test_findings_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_lint, "FINDINGS_MAX", 2)
    diff = parse_diff_untrusted(make_diff({}, {"a": regular(b"\x1b\n" * 5)}))
    message = "the line has a control character (U+001B)"
    assert lint_diff(diff) == (Finding(LintRule.CONTROL, "a", 7, message), Finding(LintRule.CONTROL, "a", 8, message))
