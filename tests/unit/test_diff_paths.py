"""Which names a diff may carry."""

from __future__ import annotations

import pytest

from provenance.diff_paths import (
    COMPONENT_BYTES_MAX,
    COMPONENTS_MAX,
    PATH_BYTES_MAX,
    check_no_nesting,
    check_path,
    decode_path_untrusted,
)
from provenance.errors import DiffRefusedError


@pytest.mark.parametrize(
    "path",
    [
        "a",
        ".gitignore",
        ".github/x",
        "a.git/b",
        "git~10",
        "..a/b..",
        "...",
        "a b/c  d",
        "日本/é",
        "-",
        "~",
        "$x;`&|",
        "a:b",
        "x" * 255,
    ],
)
def test_an_ordinary_path_is_accepted(path: str) -> None:
    check_path(path)
    assert decode_path_untrusted(path.encode(), line=1) == path


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("", "component"),
        (".", "component"),
        ("..", "component"),
        ("a/../b", "component"),
        ("a//b", "component"),
        ("a/", "component"),
        ("/a", "absolute"),
        (".git", "control"),
        ("x/.GiT/y", "control"),
        (".git. ./x", "control"),
        (".git..", "control"),
        ("GIT~1", "control"),
        (" a", "space"),
        ("a /b", "space"),
        ("a\nb", "character"),
        ("a\x7fb", "character"),
        ('a"b', "character"),
        ("a\\b", "character"),
        ("a\u202eb", "character"),
        ("a\u200bb", "character"),
        ("a\ufeff", "character"),
        ("a\U000e0041", "character"),
        ("e\u0301", "encoding"),
        ("a\ud800", "encoding"),
        ("x" * (COMPONENT_BYTES_MAX + 1), "length"),
        ("/".join("x" * (COMPONENTS_MAX + 1)), "length"),
        ("/".join(["x" * 200] * 6), "length"),
    ],
)
def test_another_path_is_refused_with_its_code(path: str, rule: str) -> None:
    with pytest.raises(DiffRefusedError) as caught:
        check_path(path, line=7)
    assert caught.value.code == f"provenance.diff.path_{rule}"
    assert caught.value.details == {"line": 7}


def test_a_name_that_is_too_long_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DiffRefusedError) as caught:
        decode_path_untrusted(b"\xff" * (PATH_BYTES_MAX + 1), line=1)
    assert caught.value.code == "provenance.diff.path_length"


def test_a_path_at_every_limit_is_accepted() -> None:
    check_path("/".join("x" * COMPONENTS_MAX))
    longest = "/".join(["x" * 255] * 4)
    assert len(longest) < PATH_BYTES_MAX
    check_path(longest)


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b/c/d", "x", "a"], ["é", "é/x"]])
def test_a_path_below_another_one_is_refused(paths: list[str]) -> None:
    with pytest.raises(DiffRefusedError) as caught:
        check_no_nesting(paths)
    assert caught.value.code == "provenance.diff.path_nesting"


def test_paths_that_only_begin_alike_are_accepted() -> None:
    check_no_nesting(["a", "ab", "b/a", "b/ab", "a.b/c"])
