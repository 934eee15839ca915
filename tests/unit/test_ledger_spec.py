"""The specification pages and the code name the same refusals."""

from __future__ import annotations

import re
from pathlib import Path

# How each module writes a code in short, and what stands before it then.
SHORT = {
    "execution.py": (r'_refuse\(\s*"(\w+)"', "ledger.tx."),
    "succession.py": (r'refuse_block\(\s*"(\w+)"', "ledger.block."),
    "transition.py": (r'refuse_block\(\s*"(\w+)"', "ledger.block."),
    "recovery.py": (r'_refuse\(\s*"(\w+)"', "ledger.recovery."),
    "recovery_block.py": (r'_refuse\(\s*"(\w+)"', "ledger.recovery."),
    "genesis_document.py": (r'_refuse\(\s*"(\w+)"', "ledger.genesis."),
}
PAGES = ("ledger.md", "proofs.md", "accountability.md", "recovery.md", "rollouts.md", "network.md")
SNAPSHOT = re.compile(r'\brefuse_snapshot\(\s*"(\w+)"')
CALLED = re.compile(r'\brefuse\(\s*"([a-z]+\.\w+)"')
WHOLE = re.compile(r'"(ledger\.[a-z]+\.\w+)"')
DERIVED = ("transactions_root", "log_size", "log_root", "state_root", "validators_hash", "policy_hash")


def codes_in_source(root: Path) -> set[str]:
    codes = {f"ledger.block.{name}" for name in DERIVED}
    for path in (root / "ledger").glob("*.py"):
        text = re.sub(r'"""(?:.|\n)*?"""', "", path.read_text())
        codes |= set(WHOLE.findall(text))
        codes |= {f"ledger.{code}" for code in CALLED.findall(text)}
        codes |= {f"ledger.snapshot.{rule}" for rule in SNAPSHOT.findall(text)}
        if path.name in SHORT:
            pattern, prefix = SHORT[path.name]
            codes |= {prefix + rule for rule in re.findall(pattern, text)}
    return codes


def test_the_pages_name_every_code_and_no_other(repository_root: Path) -> None:
    pages = "".join((repository_root / "docs" / "spec" / name).read_text() for name in PAGES)
    published = set(re.findall(r"`(ledger\.[a-z]+\.\w+)`", pages))
    source = codes_in_source(repository_root)
    assert len(source) > 100
    assert published == source
