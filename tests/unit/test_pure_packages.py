"""What import contracts cannot see in the pure packages: builtins that touch the world, and floats."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PURE_PACKAGES = ("wire", "provenance", "ledger", "consensus")

FORBIDDEN_NAMES = {
    "__import__": "code is imported at the top of a module",
    "breakpoint": "a debugger was forgotten",
    "eval": "nothing is executed that was not written here",
    "exec": "nothing is executed that was not written here",
    "float": "pure code has no floats: their text and their sums differ between machines and languages",
    "hash": "it differs from process to process for text and bytes",
    "id": "it differs from process to process",
    "input": "pure code has no input",
    "open": "pure code has no files",
    "print": "pure code has no output",
}


def find_type_checks(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes in `isinstance(value, float)` and `case float():`, with which floats are refused."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            yield from ast.walk(node.args[-1])
        elif isinstance(node, ast.MatchClass):
            yield node.cls


def find_impure(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and reason for each impure use of a name or a float in `source`."""
    tree = ast.parse(source)
    # A parameter or local variable may well be called `id` or `hash`; only reads of the builtin count.
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    refused = set(find_type_checks(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES and node.id not in bound and node not in refused:
            yield node.lineno, f"`{node.id}`: {FORBIDDEN_NAMES[node.id]}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            yield node.lineno, f"`{node.value}`: {FORBIDDEN_NAMES['float']}"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield node.lineno, f"`/` makes a float: {FORBIDDEN_NAMES['float']}; use `//`"


@pytest.mark.parametrize("package", PURE_PACKAGES)
def test_pure_package_uses_no_impure_builtin_and_no_float(repository_root: Path, package: str) -> None:
    findings = [
        f"{path.relative_to(repository_root)}:{line}: {reason}"
        for path in sorted((repository_root / package).rglob("*.py"))
        for line, reason in find_impure(path.read_text(encoding="utf-8"))
    ]
    assert not findings, "\n".join(findings)


@pytest.mark.parametrize("source", ["open('x')", "a = 1.5", "a = b / c", "a /= 2", "key = hash(b'x')", "x = float(y)"])
def test_finder_finds(source: str) -> None:
    assert len(list(find_impure(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f(id): return id",
        "hash = f(); g(hash)",
        "a = b // c",
        "x.open()",
        "isinstance(x, int | float)",
        "def __hash__(self): ...",
    ],
)
def test_finder_leaves_harmless_code_alone(source: str) -> None:
    assert list(find_impure(source)) == []
