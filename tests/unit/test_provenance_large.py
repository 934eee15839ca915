"""A large patch takes memory in proportion to its bytes: three times a diff and a bit, for making, verifying and planning it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from provenance.diff import parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_lines import HunkLines
from provenance.diff_model import ChangeKind, FileState, print_diff
from tests.bench.large_network import make_many
from tests.bench.large_patch import Shape, describe, make_inputs, peak_kib

pytestmark = pytest.mark.slow

DIFF_BYTES = 8_000_000
SENT_BYTES = 24_000_000
ROOM_KIB = 24 * 1024
"""What a command imports beyond what the idle process has, and buffers that do not depend on the diff."""


def peak_of(step: str, directory: Path) -> int:
    if not Path("/proc/self/status").exists():
        pytest.skip("peaks of memory are read from /proc")
    command = [sys.executable, "-m", "tests.bench.large_patch", "--step", step, "--directory", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return peak_kib(done.stdout)


@pytest.mark.parametrize("shape", Shape)
def test_memory_is_three_times_the_diff_at_most(tmp_path: Path, shape: Shape) -> None:
    size = make_inputs(tmp_path, shape, DIFF_BYTES)
    bound = peak_of("idle", tmp_path) + 3 * size // 1024 + ROOM_KIB
    peaks = {step: peak_of(step, tmp_path) for step in ("create", "verify", "apply")}
    assert max(peaks.values()) <= bound, peaks
    if shape is Shape.ADDED:
        assert peak_of("waste", tmp_path) > bound, "a process that holds its lines as objects is seen"


def test_what_goes_to_a_node_and_what_is_added_keeps_to_it_too(tmp_path: Path) -> None:
    size = make_inputs(tmp_path, Shape.ADDED, SENT_BYTES)
    bound = peak_of("idle", tmp_path) + 3 * size // 1024 + ROOM_KIB
    peaks = {step: peak_of(step, tmp_path) for step in ("create", "attest", "extract", "send", "receive")}
    assert max(peaks.values()) <= bound, peaks
    assert peak_of("send as text", tmp_path) > bound, "a process that sends the file as text is seen"


def test_the_figures_are_told_in_one_line() -> None:
    assert describe("verify", 100_000_000, 200_000, 1.5) == "verify  diff 100.0 MB  peak 195 MiB (bound 386)  1.5 s"


def test_the_patch_of_many_files_changes_adds_and_removes(tmp_path: Path) -> None:
    size = make_many(tmp_path, 80)
    text = (tmp_path / "large.diff").read_bytes()
    assert len(text) == size
    diff = parse_diff_untrusted(text)
    kinds = Counter(change.kind for change in diff.files)
    assert kinds == {ChangeKind.MODIFY: 64, ChangeKind.ADD: 10, ChangeKind.DELETE: 6}
    files = {path: (tmp_path / "base" / path) for path in diff.reads}
    states = {path: FileState(0o100644, file.read_bytes()) if file.exists() else None for path, file in files.items()}
    assert len(apply_diff(diff, states)) == 80


# The lines of a hunk that are a stretch of text


_END = b"\\ No newline at end of file\n"
TEXT = b"diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,3 +1,3 @@\n x\n y\n-z\n" + _END + b"+w\n" + _END
LINES = (b" x\n", b" y\n", b"-z", b"+w")


def test_lines_of_a_text_are_the_tuple_of_them() -> None:
    (change,) = parse_diff_untrusted(TEXT).files
    (hunk,) = change.hunks
    lines = hunk.lines
    assert isinstance(lines, HunkLines)
    assert lines == LINES
    assert lines != LINES[:-1]
    assert lines != (*LINES[:-1], b"+v")
    assert lines != list(LINES)
    assert (tuple(reversed(lines)), len(lines), hash(lines), repr(lines)) == (LINES[::-1], 4, hash(LINES), repr(LINES))
    assert (lines[0], lines[-1], lines[1:3]) == (LINES[0], LINES[-1], LINES[1:3])
    with pytest.raises(IndexError):
        lines[4]
    assert (hunk.lines_added, hunk.lines_removed, hunk.context_before, hunk.context_after) == (1, 1, 2, 0)


def test_a_hunk_longer_than_what_is_read_at_once_is_whole() -> None:
    content = b"".join(b"%d\n" % number * (number % 7 + 1) for number in range(40_000))
    count = content.count(b"\n")
    header = b"diff --git a/a b/a\nnew file mode 100644\n--- /dev/null\n+++ b/a\n@@ -0,0 +1,%d @@\n" % count
    text = header + b"".join(b"+" + line for line in content.splitlines(keepends=True))
    diff = parse_diff_untrusted(text)
    assert print_diff(diff) == text
    assert apply_diff(diff, {"a": None}) == {"a": FileState(0o100644, content)}
    assert tuple(reversed(diff.files[0].hunks[0].lines)) == tuple(diff.files[0].hunks[0].lines)[::-1]


def test_a_diff_inside_a_file_is_the_diff_alone() -> None:
    done: list[int] = []
    whole = b"before\n" + TEXT + b"after\n"
    diff = parse_diff_untrusted(whole, begin=7, end=7 + len(TEXT), progress=done.append)
    assert (diff.raw, diff.files) == (TEXT, parse_diff_untrusted(TEXT).files)
    assert done == [len(TEXT)]
