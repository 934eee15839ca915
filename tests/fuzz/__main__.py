"""``python -m tests.fuzz``, also ``make fuzz``: shares the minutes out over the targets, one process at a time, and writes the table.

What is found goes to DIRECTORY/findings, the grown corpus to DIRECTORY/corpus, the table to DIRECTORY/table.md. Ends with 1 when there is a
finding, with 2 when a target could not be run. An input is replayed with ``python -m tests.fuzz --target NAME --replay FILE``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fuzz.target import Tally, Target, try_input
from tests.fuzz.targets import all_targets

START_SECONDS: Final = 8
"""What a worker takes to import and instrument, about; its share of the time is what remains."""
TARGET_SECONDS_MIN: Final = 2
STARTS_MAX: Final = 10
"""How often a target is begun again after its worker was ended by something."""
GRACE_SECONDS: Final = 900
"""How much longer than planned a worker may take before it is ended: on a busy machine it imports for minutes."""


@dataclass(slots=True)
class Row:
    """What became of one target."""

    name: str
    seconds: float = 0
    accepted: int = 0
    refused: int = 0
    corpus: int = 0
    findings: dict[str, int] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    """Exit codes of workers that did not end by themselves."""

    @property
    def cells(self) -> list[str]:
        found = ", ".join([*self.findings, *self.ends]) or "none"
        executions = self.accepted + self.refused
        return [
            f"`{self.name}`",
            f"{self.seconds:.0f}",
            f"{executions:,}",
            f"{self.accepted:,}",
            f"{self.corpus:,}",
            found,
        ]


HEADER: Final = (
    "| target | seconds | executions | accepted | corpus | findings |\n| --- | --- | --- | --- | --- | --- |"
)


def fuzz(part: str, target: Target, seconds: float, directory: Path, seed: int) -> Row:
    """Run one target for so long, again when its worker ended before."""
    row = Row(target.name)
    began = time.monotonic()
    while True:
        left = seconds - (time.monotonic() - began) - START_SECONDS
        if row.seconds and left < TARGET_SECONDS_MIN:
            break
        planned = max(TARGET_SECONDS_MIN, round(left))
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.worker",
            part,
            target.name,
            str(planned),
            str(directory),
            str(seed),
        ]
        with (directory / f"{target.name}.log").open("ab") as log:
            try:
                # libFuzzer ends a process at once, and what a target has put into temporary directories stays.
                with tempfile.TemporaryDirectory(prefix="patchwarden-fuzz-") as scratch:
                    code = subprocess.run(
                        command,
                        stdout=log,
                        stderr=log,
                        timeout=planned + GRACE_SECONDS,
                        env={**os.environ, "TMPDIR": scratch},
                        check=False,
                    ).returncode
            except subprocess.TimeoutExpired:
                code = -9
        row.seconds = time.monotonic() - began
        told = _read(directory / f"{target.name}.json")
        row.accepted += told["accepted"]
        row.refused += told["refused"]
        row.findings |= told["findings"]
        if code == 0:
            break
        row.ends.append(f"ended with {code}")
        if len(row.ends) == STARTS_MAX:
            break
        seed += 1
    grown = directory / "corpus" / target.name
    row.corpus = sum(1 for _ in grown.iterdir()) if grown.is_dir() else 0
    return row


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"accepted": 0, "refused": 0, "findings": {}}
    told: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return told


def replay(target: Target, path: Path) -> int:
    """Give one input to one target and say what happens."""
    tally = Tally()
    finding = try_input(target, path.read_bytes(), tally, with_memory=True)
    if finding is None:
        print(f"{target.name}: {'accepted' if tally.accepted else 'refused'}, as it should be")
        return 0
    print(f"{target.name}: {finding.fault.value} {finding.place}\n{finding.what}")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.partition("\n\n")[0] if __doc__ else ""
    )
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together (10)")
    parser.add_argument("--target", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=Path(".fuzz"), help="corpus, findings, logs (.fuzz)")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="give this input to the one target, without atheris"
    )
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    options = parser.parse_args()
    known = all_targets()
    unknown = [name for name in options.target if name not in known]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    chosen = [known[name] for name in options.target or known]
    if options.list:
        print(*(target.name for _, target in chosen), sep="\n")
        return 0
    if options.replay:
        if len(chosen) != 1:
            parser.error("--replay needs one --target")
        return replay(chosen[0][1], options.replay)
    return run(chosen, options.minutes * 60, options.directory.absolute(), options.seed)


def run(chosen: list[tuple[str, Target]], seconds: float, directory: Path, seed: int) -> int:
    """Run the targets one after the other and print a row for each."""
    directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    rows: list[Row] = []
    print(HEADER, flush=True)
    for index, (part, target) in enumerate(chosen):
        left = seconds - (time.monotonic() - began)
        shares = sum(each.share for _, each in chosen[index:])
        row = fuzz(part, target, left * target.share / shares, directory, seed)
        rows.append(row)
        print(f"| {' | '.join(row.cells)} |", flush=True)
    total = Row("all", time.monotonic() - began, sum(row.accepted for row in rows), sum(row.refused for row in rows))
    total.corpus = sum(row.corpus for row in rows)
    total.findings = {name: count for row in rows for name, count in row.findings.items()}
    total.ends = [end for row in rows for end in row.ends]
    print(f"| {' | '.join(total.cells)} |", flush=True)
    lines = [HEADER, *(f"| {' | '.join(row.cells)} |" for row in [*rows, total])]
    (directory / "table.md").write_text("\n".join(lines) + "\n")
    if any(not row.accepted + row.refused for row in rows):
        return 2
    return 1 if total.findings or total.ends else 0


if __name__ == "__main__":
    sys.exit(main())
