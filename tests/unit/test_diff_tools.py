"""The same diff in the hands of git, GNU patch and busybox: where we accept, they leave the tree that we leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provenance.diff import parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_make import make_diff
from tests.testkit.appliers import GIT_TOOLS, GNU_TOOLS, INSTALLED, Outcome, Tool, git_diff, run_tool
from tests.testkit.diffs import CHANGES, regular

pytestmark = pytest.mark.slow

HOSTILE = Path(__file__).parent.parent / "vectors" / "patches" / "hostile"
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
BASE = {name: regular("".join(f"{word}\n" for word in WORDS).encode()) for name in ("a.txt", "b.txt")}


def test_git_and_gnu_patch_are_here_to_compare_with() -> None:
    assert Tool.GIT_APPLY in INSTALLED, "git is needed to develop and test"
    if not GNU_TOOLS:
        pytest.skip("GNU patch is not installed")


@pytest.mark.parametrize("name", CHANGES)
def test_git_and_gnu_patch_do_what_we_do(name: str) -> None:
    change = CHANGES[name]
    text = change.make()
    for tool in (*GIT_TOOLS, *GNU_TOOLS):
        outcome = run_tool(tool, change.pre, text)
        assert outcome.accepted, (tool, outcome.output)
        assert outcome.tree == change.tree, tool


@pytest.mark.skipif(not Tool.BUSYBOX.is_installed, reason="busybox is not installed")
@pytest.mark.parametrize("name", CHANGES)
def test_busybox_patch_does_what_we_do_where_no_finding_says_otherwise(name: str) -> None:
    change = CHANGES[name]
    outcome = run_tool(Tool.BUSYBOX, change.pre, change.make())
    assert (outcome.accepted and outcome.tree == change.tree) == change.busybox, outcome.output


@pytest.mark.parametrize("name", CHANGES)
def test_diffs_without_index_lines_mean_the_same(name: str) -> None:
    change = CHANGES[name]
    if name in ("add empty", "delete empty"):
        pytest.skip("an empty file needs its index line")
    text = change.make()
    text = b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"index "))
    diff = parse_diff_untrusted(text)
    assert apply_diff(diff, {path: change.pre.get(path) for path in diff.reads}) == {
        path: change.post.get(path) for path in diff.paths
    }
    for tool in (Tool.GIT_APPLY, *GNU_TOOLS):
        outcome = run_tool(tool, change.pre, text)
        assert (outcome.accepted, outcome.tree) == (True, change.tree), (tool, outcome.output)


# Why the reader is strict: each of these does real harm, or different things, in the hands of at least one tool.


def attack(name: str, *tools: Tool) -> dict[Tool, Outcome]:
    text = (HOSTILE / f"{name}.diff").read_bytes()
    return {tool: run_tool(tool, BASE, text) for tool in tools if tool.is_installed}


def test_hidden_text_is_applied_by_the_tools_that_we_refuse_for_them() -> None:
    for outcome in attack("hunk-after-signature", Tool.GIT_APPLY, Tool.PATCH).values():
        assert outcome.accepted
        assert outcome.tree["b.txt"] != BASE["b.txt"]
    for outcome in attack("header-names-disagree", Tool.GIT_APPLY, Tool.PATCH).values():
        assert outcome.tree["b.txt"] != BASE["b.txt"]
    for outcome in attack("git-hooks", Tool.PATCH).values():
        assert outcome.accepted


@pytest.mark.skipif(not GNU_TOOLS, reason="GNU patch is not installed")
@pytest.mark.parametrize("name", ["zero-context-insert", "old-and-new-names-disagree"])
def test_git_and_gnu_patch_disagree_where_we_refuse(name: str) -> None:
    outcomes = attack(name, Tool.GIT_APPLY, Tool.PATCH)
    assert outcomes[Tool.GIT_APPLY].tree != outcomes[Tool.PATCH].tree


def test_the_hostile_vectors_do_something_somewhere() -> None:
    """A vector that every tool refuses as well would show little; most are accepted by at least one."""
    names = json.loads((HOSTILE / "index.json").read_text())
    accepted = [
        name
        for name in names
        if any(outcome.accepted for outcome in attack(name, Tool.GIT_APPLY, Tool.PATCH_BATCH).values())
    ]
    assert len(accepted) > len(names) // 3


@pytest.mark.parametrize("name", [name for name, change in CHANGES.items() if not (change.renames or change.copies)])
def test_a_made_diff_is_byte_for_byte_what_git_prints(name: str) -> None:
    change = CHANGES[name]
    assert make_diff(change.pre, change.post) == git_diff(change.pre, change.post)
