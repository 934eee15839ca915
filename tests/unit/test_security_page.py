"""docs/security.md says what is so: its tests and codes exist, its rows are whole, and each row's tests know its codes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import pytest

from agent.results import ResultCode
from tests.security import PAGE, ROOT, Row, headline, named_tests, read_rows

ROWS = read_rows()
PACKAGES = ("agent", "consensus", "ledger", "node", "provenance", "wire")
OWNERS = {"cli": "node", **{package: package for package in PACKAGES}}
"""In which package the codes of each family are made."""
VECTORS = ("tests/vectors/patches/hostile/index.json", "tests/vectors/patchfile/index.json")
THREATS = 86
"""Rows of the page; one that goes must go here too."""


@lru_cache
def _literals(package: str) -> frozenset[str]:
    """Return every text in the package's sources, those inside f-strings included, and the ids of its policies."""
    found: set[str] = set()
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    for path in sorted((ROOT / package).rglob("*.cedar")):
        found.update(re.findall(r'@id\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    return frozenset(found)


def _exists(code: str) -> bool:
    """Return whether the sources hold the code: whole, or as the rule behind a family that a helper puts before it."""
    family, _, rest = code.partition(".")
    if family not in OWNERS:
        return False
    return not _literals(OWNERS[family]).isdisjoint({code, rest, rest.partition(".")[2]})


@lru_cache
def _functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def test_the_page_has_its_rows_in_order() -> None:
    assert [row.number for row in ROWS] == list(range(1, THREATS + 1))
    assert all(row.codes and row.tests for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"threat-{row.number}")
def test_every_test_that_a_row_names_exists(row: Row) -> None:
    for path, test in row.tests:
        assert (ROOT / path).is_file(), path
        assert test in _functions(path), f"{path} has no {test}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"threat-{row.number}")
def test_every_code_that_a_row_names_exists_and_its_tests_know_it(row: Row) -> None:
    paths = {path for path, _ in row.tests} | set(VECTORS)
    text = "".join((ROOT / path).read_text(encoding="utf-8") for path in sorted(paths))
    for code in row.codes:
        assert _exists(code), f"no source makes {code}"
        assert code in text or f'"{code.rpartition(".")[2]}"' in text, f"no test of this row knows {code}"


def test_the_page_shows_what_its_command_prints_first() -> None:
    assert f"\n$ .venv/bin/python -m tests.security --fast\n{headline(ROWS, fast=True)}\n" in PAGE.read_text(
        encoding="utf-8"
    )


@lru_cache
def _marks(path: str) -> dict[str, frozenset[str]]:
    """Return the marks of each test of a file, the whole file's included."""

    def names(nodes: Iterable[ast.expr]) -> frozenset[str]:
        inner = (each for node in nodes for each in ast.walk(node))
        return frozenset(each.attr for each in inner if isinstance(each, ast.Attribute))

    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    everywhere: frozenset[str] = frozenset()
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(each, "id", "") for each in node.targets] == ["pytestmark"]:
            everywhere = names([node.value])
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name: names(node.decorator_list) | everywhere for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_test_that_is_named_runs_in_the_ordinary_run() -> None:
    """What needs the internet is left out of `make test`: a threat's test must not be there."""
    assert _marks("tests/e2e/test_interop_page.py")["test_libraries_of_others_print_what_the_page_shows"] == {
        "mark",
        "network",
    }
    assert "network" in _marks("tests/e2e/test_cose_foreign.py")["verify"]
    for row in ROWS:
        for path, test in row.tests:
            assert "network" not in _marks(path)[test], f"{path}::{test}"


def test_a_test_or_a_code_that_is_not_there_is_found(tmp_path: Path) -> None:
    """The page's own checks can fail."""
    page = tmp_path / "security.md"
    link = "[`test_threats.py::test_nothing`](../tests/unit/test_threats.py)"
    page.write_text(f"| 1 | a | b | `agent.replica.stale`<br>`agent.replica.nothing` | {link} |\n")
    (row,) = read_rows(page)
    assert row.tests == (("tests/unit/test_threats.py", "test_nothing"),)
    assert "test_nothing" not in _functions("tests/unit/test_threats.py")
    assert [_exists(code) for code in row.codes] == [True, False]
    assert not _exists("nobody.replica.stale")
    page.write_text(f"| 1 | a | b | `agent.replica.stale` | {link}<br>`test_x.py::test_y` |\n")
    with pytest.raises(AssertionError, match="no link"):
        read_rows(page)


def test_no_test_is_named_in_prose_that_is_not_in_a_row() -> None:
    named = {test.partition("::")[2] for test in named_tests(ROWS)}
    assert set(re.findall(r"::(test_[a-z0-9_]+)", PAGE.read_text(encoding="utf-8"))) == named


def test_results_named_on_the_page_exist() -> None:
    results = {code.value for code in ResultCode}
    assert set(re.findall(r"ERROR_[A-Z_]+", PAGE.read_text(encoding="utf-8"))) <= results
