"""Every target, by name. A part's module is imported when its targets are asked for, so that one worker imports no more than it needs."""

from __future__ import annotations

import importlib
from typing import Final

from tests.fuzz.target import Target

PARTS: Final = ("wire", "provenance", "ledger", "node", "fetching")


def of_part(part: str) -> list[Target]:
    targets: list[Target] = importlib.import_module(f"tests.fuzz.of_{part}").targets()
    return targets


def all_targets() -> dict[str, tuple[str, Target]]:
    """Return part and target by the target's name."""
    found = [(part, target) for part in PARTS for target in of_part(part)]
    names = [target.name for _, target in found]
    assert len(set(names)) == len(names), "two targets of one name"
    return {target.name: (part, target) for part, target in found}
