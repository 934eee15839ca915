"""The table of traps stays true: each protection is where it says, each test is there, and docs/testing.md has the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.testkit.trap_removals import REMOVALS, TRAPS, Removal
from tests.traps import table


def test_every_trap_has_a_protection_with_a_test() -> None:
    assert set(TRAPS) == set(range(1, 27))
    assert {removal.trap for removal in REMOVALS} == set(TRAPS)


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: f"{removal.trap}: {removal.what}")
def test_what_protects_stands_where_the_table_says(removal: Removal, repository_root: Path) -> None:
    for file, old, new in removal.edits:
        assert (repository_root / file).read_text(encoding="utf-8").count(old) == 1, (file, old)
        assert new != old


@pytest.mark.parametrize("test", sorted({removal.test for removal in REMOVALS}))
def test_the_test_of_the_table_is_there(test: str, repository_root: Path) -> None:
    file, name = test.split("::")
    text = (repository_root / file).read_text(encoding="utf-8")
    assert len(re.findall(rf"^(?:async )?def {name}\(", text, re.MULTILINE)) == 1


def test_the_manual_has_the_table(repository_root: Path) -> None:
    text = (repository_root / "docs" / "testing.md").read_text(encoding="utf-8")
    assert table() in text, "put the output of `python -m tests.traps --table` into docs/testing.md"
