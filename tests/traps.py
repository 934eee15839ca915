"""Take each protection of `tests.testkit.trap_removals` out of a copy of the tree, and see that its test fails: ``python -m tests.traps``.

Options: ``--trap N`` for one trap, ``--table`` to print the table of docs/testing.md and end. Ends with 1 when a test passes without its
protection, or fails with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.testkit.trap_removals import REMOVALS, TRAPS, Removal

ROOT: Final = Path(__file__).resolve().parent.parent
TIMEOUT_S: Final = 180
"""For one test; one that hangs without its protection has failed too."""
PYTEST_FAILED: Final = 1
"""What pytest returns when tests ran and some failed; anything else than this and 0 is an error of the table."""


def copy_tree(target: Path) -> None:
    """Copy what belongs to the project, with changes that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def environment_for(tree: Path) -> dict[str, str]:
    """Return an environment in which the packages of `tree` come before the installed ones."""
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}


def check_imports(tree: Path) -> None:
    """Return only when the packages that tests import are those of `tree`."""
    where = "import consensus.core, node.validator; print(consensus.core.__file__, node.validator.__file__)"
    command = [sys.executable, "-c", where]
    run = subprocess.run(command, cwd=tree, env=environment_for(tree), capture_output=True, text=True, check=False)
    found = run.stdout.split()
    if not found or not all(Path(path).is_relative_to(tree) for path in found):
        raise SystemExit(f"the copy's packages are not the ones that are imported: {found or run.stderr}")


def run_tests(tree: Path, tests: Sequence[str], timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
    """Return pytest's exit code for these tests in `tree`, and what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    try:
        run = subprocess.run(
            command,
            cwd=tree,
            env=environment_for(tree),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return PYTEST_FAILED, "timed out"
    return run.returncode, run.stdout + run.stderr


def try_removal(tree: Path, removal: Removal) -> str | None:
    """Return what is wrong with the removal; None when its test fails without the protection."""
    texts = {file: (tree / file).read_text(encoding="utf-8") for file, _, _ in removal.edits}
    changed = dict(texts)
    for file, old, new in removal.edits:
        if changed[file].count(old) != 1:
            return f"the text stands {changed[file].count(old)} times in {file}"
        changed[file] = changed[file].replace(old, new)
    try:
        for file, text in changed.items():
            (tree / file).write_text(text, encoding="utf-8")
        code, said = run_tests(tree, [removal.test])
    finally:
        for file, text in texts.items():
            (tree / file).write_text(text, encoding="utf-8")
    if code == 0:
        return "the test passes without the protection"
    return None if code == PYTEST_FAILED else f"pytest ended with {code}: {said[-500:]}"


def table() -> str:
    """Return the table of docs/testing.md."""
    lines = ["| trap | what protects | the test that fails without it |", "| --- | --- | --- |"]
    for number, title in TRAPS.items():
        lines.append(f"| **{number}** | **{title}** | |")
        for each in (removal for removal in REMOVALS if removal.trap == number):
            file, name = each.test.split("::")
            lines.append(f"| | {each.what} (`{each.file}`) | `{Path(file).name}::{name}` |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Try them and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trap", type=int, help="only this one")
    parser.add_argument("--table", action="store_true", help="print the table and end")
    options = parser.parse_args()
    if options.table:
        print(table(), end="")
        return 0
    chosen = [each for each in REMOVALS if options.trap in (None, each.trap)]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="patchwarden-traps-") as directory:
        tree = Path(directory)
        copy_tree(tree)
        check_imports(tree)
        code, said = run_tests(tree, sorted({each.test for each in chosen}), timeout_s=10 * TIMEOUT_S)
        if code not in (0, PYTEST_FAILED):
            print(f"with every protection in place, the tests do not run:\n{said[-3000:]}")
            return 1
        failing = {each.test for each in chosen if f"FAILED {each.test}" in said}
        passing = {each.test for each in chosen} - failing
        print(f"with every protection in place, {len(passing)} tests pass and {len(failing)} fail", flush=True)
        for each in chosen:
            begin = time.monotonic()
            problem = try_removal(tree, each) if each.test in passing else "the test fails with the protection too"
            wrong += problem is not None
            verdict = "fails without it" if problem is None else f"WRONG: {problem}"
            print(
                f"{each.trap:>4}  {each.what}: {each.test.split('::')[1]} {verdict} ({time.monotonic() - begin:.1f} s)",
                flush=True,
            )
    print(f"{len(chosen) - wrong} of {len(chosen)} protections have a test that fails when they are taken out")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
