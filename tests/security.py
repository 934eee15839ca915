"""Run every test that docs/security.md names: ``python -m tests.security``; with ``--fast`` those that start no processes.

Ends with pytest's exit code. `named_tests` is also what tests/unit/test_security_page.py checks.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "security.md"
FAST: Final = ("tests/unit/", "tests/properties/", "tests/vectors/")
_ROW: Final = re.compile(r"\| [0-9]+ \|")
_LINK: Final = re.compile(r"\[`(?P<file>test_[a-z0-9_]+\.py)::(?P<test>test_[a-z0-9_]+)`\]\(\.\./(?P<path>[^)]+)\)")
_CODE: Final = re.compile(r"`([a-z0-9_.\-]+)`")


@dataclass(frozen=True, slots=True)
class Row:
    """One threat of the page."""

    number: int
    """Its place."""
    codes: tuple[str, ...]
    """What a refusal of it is called."""
    tests: tuple[tuple[str, str], ...]
    """Path from the root, and name, of each test that shows it."""


def read_rows(page: Path = PAGE) -> tuple[Row, ...]:
    """Return the rows of the page's tables, in its order."""
    rows = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if _ROW.match(line) is None:
            continue
        number, _, _, codes, tests = (cell.strip() for cell in line.strip("| ").split(" | "))
        links = list(_LINK.finditer(tests))
        assert len(links) == tests.count("::"), f"row {number} has a test that is no link"
        assert all(Path(link["path"]).name == link["file"] for link in links), f"row {number} links elsewhere"
        named = tuple((link["path"], link["test"]) for link in links)
        rows.append(Row(int(number), tuple(_CODE.findall(codes)), named))
    return tuple(rows)


def named_tests(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return each test that `rows` name once, as pytest takes it."""
    return tuple(dict.fromkeys(f"{path}::{test}" for row in rows for path, test in row.tests))


def chosen_tests(rows: Sequence[Row], *, fast: bool) -> tuple[str, ...]:
    """Return the named tests; with `fast` those that start no processes."""
    return tuple(test for test in named_tests(rows) if not fast or test.startswith(FAST))


def headline(rows: Sequence[Row], *, fast: bool) -> str:
    """Return the line that stands before pytest's."""
    return f"{len(rows)} threats, {len(chosen_tests(rows, fast=fast))} tests"


def main() -> int:
    """Run the tests and return pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.security", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="leave out what starts processes")
    arguments = parser.parse_args()
    rows = read_rows()
    tests = chosen_tests(rows, fast=arguments.fast)
    print(headline(rows, fast=arguments.fast), flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
