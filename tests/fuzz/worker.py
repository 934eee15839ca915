"""One target under atheris until its time is over: ``python -m tests.fuzz.worker PART TARGET SECONDS DIRECTORY SEED``.

The process never sees a finding as a crash: it writes the input down, goes on, and finds others. What does end it is what Python cannot
catch: memory beyond `RSS_MEBIBYTES_MAX`, one allocation beyond `MALLOC_MEBIBYTES_MAX`, an input that takes longer than `INPUT_SECONDS_MAX`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Final

RSS_MEBIBYTES_MAX: Final = 1024
"""The whole process; most take 150 to 300, the corpus and the tables of coverage among them."""
MALLOC_MEBIBYTES_MAX: Final = 256
INPUT_SECONDS_MAX: Final = 20
MEMORY_EVERY: Final = 512
"""One input of so many is run again with every allocation counted, which takes several times as long."""
REPORT_EVERY_S: Final = 0.2
PACKAGES: Final = ["wire", "provenance", "ledger", "consensus", "agent", "node", "fastapi", "starlette"]
"""What is instrumented: ours, and what stands between a request and our routes."""


def main(part: str, name: str, seconds: int, directory: Path, seed: int) -> None:
    import atheris  # Not in the ordinary environment: `make fuzz` adds it.

    with atheris.instrument_imports(include=PACKAGES, enable_loader_override=False):
        from tests.fuzz.target import CORPUS, Finding, Tally, try_input
        from tests.fuzz.targets import of_part

        (target,) = (each for each in of_part(part) if each.name == name)
    seeds, grown, findings = directory / "seeds" / name, directory / "corpus" / name, directory / "findings"
    for folder in (seeds, grown, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    words = directory / "seeds" / f"{name}.words"
    words.write_text("# words of the format\n" + "".join(f'"{_escaped(word)}"\n' for word in target.words or [b"\0"]))

    tally = Tally()
    found: dict[str, int] = {}
    reported_at = 0.0

    def report() -> None:
        document = {"accepted": tally.accepted, "refused": tally.refused, "findings": found}
        (directory / f"{name}.json").write_text(json.dumps(document))

    def keep(finding: Finding) -> None:
        found[finding.name] = found.get(finding.name, 0) + 1
        if found[finding.name] == 1:
            (findings / f"{finding.name}.input").write_bytes(finding.data)
            (findings / f"{finding.name}.txt").write_text(f"{finding.place}\n{finding.what}\n")
            report()

    def one(data: bytes) -> None:
        nonlocal reported_at
        finding = try_input(target, data, tally, with_memory=tally.executions % MEMORY_EVERY == 0)
        if finding is not None:
            keep(finding)
        if time.monotonic() - reported_at > REPORT_EVERY_S:
            reported_at = time.monotonic()
            report()

    report()
    committed = CORPUS / name
    options = (
        f"-max_total_time={seconds}",
        f"-max_len={target.input_bytes_max}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-rss_limit_mb={RSS_MEBIBYTES_MAX}",
        f"-malloc_limit_mb={MALLOC_MEBIBYTES_MAX}",
        f"-seed={seed}",
        f"-artifact_prefix={findings}/{name}-ended-",
        f"-dict={words}",
        "-print_final_stats=1",
        "-reload=0",
    )
    atheris.Setup([sys.argv[0], *options, *map(str, (grown, seeds, *([committed] if committed.is_dir() else [])))], one)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
