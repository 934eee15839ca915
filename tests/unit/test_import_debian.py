"""Real Debian patches: imported, they give what GNU patch gave, and the exact diff means the same to every tool."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provenance.diff import FileState, parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_lint import LintRule, lint_diff
from provenance.diff_make import make_diff
from provenance.imports import read_foreign_patch_untrusted, rebase
from tests.testkit.appliers import INSTALLED, Tool, read_tree, run_tool

DEBIAN = Path(__file__).parent.parent / "vectors" / "debian"


@dataclass(frozen=True)
class Vector:
    patch: bytes
    pre: dict[str, FileState]
    expected: dict[str, Any]


FOLDERS = sorted(path.parent for path in DEBIAN.glob("*/*/change.patch"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def vector(request: pytest.FixtureRequest) -> Vector:
    folder: Path = request.param
    expected = json.loads((folder / "expected.json").read_text())
    return Vector(
        (folder / "change.patch").read_bytes(), read_tree(folder / "pre"), {**expected, "file_name": folder.name}
    )


def summary(state: FileState | None) -> dict[str, str] | None:
    return None if state is None else {"mode": f"{state.mode:06o}", "sha256": hashlib.sha256(state.content).hexdigest()}


def test_the_corpus_is_complete() -> None:
    assert len(FOLDERS) == 12
    for package in ("bash", "curl", "tar"):
        assert (DEBIAN / package / "COPYING").stat().st_size > 1000
        assert "Licence" in (DEBIAN / package / "LICENSES.md").read_text()


def test_an_imported_patch_gives_what_gnu_patch_gave(vector: Vector) -> None:
    result = rebase(read_foreign_patch_untrusted(vector.patch), vector.pre.get)
    assert {path: summary(state) for path, state in result.post.items()} == vector.expected["post"]
    assert len(result.moves) == vector.expected["hunks_moved"]


def test_its_exact_diff_applies_to_exactly_these_files(vector: Vector) -> None:
    result = rebase(read_foreign_patch_untrusted(vector.patch), vector.pre.get)
    diff = parse_diff_untrusted(make_diff(result.pre, result.post, result.renames, copies=result.copies))
    post = apply_diff(diff, result.pre)
    assert {path: summary(state) for path, state in post.items()} == vector.expected["post"]


def test_its_header_is_understood(vector: Vector) -> None:
    metadata = read_foreign_patch_untrusted(vector.patch, file_name=vector.expected["file_name"]).metadata
    assert {
        "title": metadata.title,
        "author_name": metadata.author_name,
        "author_email": metadata.author_email,
        "references": list(metadata.references),
        "origin": metadata.origin,
        "category": metadata.category,
    } == vector.expected["metadata"]


@pytest.mark.slow
def test_its_exact_diff_means_the_same_to_every_tool(vector: Vector) -> None:
    result = rebase(read_foreign_patch_untrusted(vector.patch), vector.pre.get)
    text = make_diff(result.pre, result.post, result.renames, copies=result.copies)
    limited = any(finding.rule is LintRule.BUSYBOX for finding in lint_diff(parse_diff_untrusted(text), result.pre))
    for tool in INSTALLED:
        if tool is Tool.BUSYBOX and limited:
            continue
        outcome = run_tool(tool, vector.pre, text)
        assert outcome.accepted, (tool, outcome.output)
        assert {path: summary(outcome.tree.get(path)) for path in result.post} == vector.expected["post"], tool
