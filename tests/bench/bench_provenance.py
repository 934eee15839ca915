"""How long a patch file takes to make and to verify: `python -m tests.bench.bench_provenance`.

Medians of many rounds, in milliseconds; a calibration line (SHA-256 of one MiB) stands beside them, because shared machines switch speed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from provenance.diff_model import FileState
from provenance.patchfile import build_patch_file
from provenance.verify import check_metadata, check_signature_untrusted, extract_metadata, verify_patch_untrusted
from tests.testkit.patches import ALICE, add_test_result, approve, make_metadata, seal
from wire.hashing import sha256

ROUNDS = 30
LINES = 300
FILE_COUNTS = (1, 10, 100, 1000)


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median duration of `work`."""
    durations = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        work()
        durations.append((time.perf_counter_ns() - start) / 1e6)
    return statistics.median(durations)


def measure(file_count: int) -> str:
    """Return one line of the table: a patch of so many files of `LINES` lines, two hunks each, with test result, review and seal."""
    content = b"".join(b"line %d of some source file\n" % number for number in range(LINES))
    before = {f"src/module{index:04}.c": FileState(0o100644, content) for index in range(file_count)}
    after = {
        path: FileState(
            0o100644, content.replace(b"line 50 ", b"line fifty ").replace(b"line 200 of some source file\n", b"")
        )
        for path in before
    }
    metadata, diff = make_metadata(before, after)
    data = build_patch_file(metadata, diff, ALICE)
    sealed = seal(approve(add_test_result(data)))
    rounds = max(3, ROUNDS // max(1, file_count // 10))
    signed = check_signature_untrusted(sealed)
    described = extract_metadata(signed)
    cells = (
        milliseconds(lambda: build_patch_file(metadata, diff, ALICE), rounds),
        milliseconds(lambda: verify_patch_untrusted(data), rounds),
        milliseconds(lambda: verify_patch_untrusted(sealed), rounds),
        milliseconds(lambda: check_signature_untrusted(sealed), rounds),
        milliseconds(lambda: extract_metadata(signed), rounds),
        milliseconds(lambda: check_metadata(described), rounds),
    )
    return f"{file_count:5} {len(sealed) // 1024:6} KiB " + " ".join(f"{cell:10.2f}" for cell in cells)


def main() -> None:
    """Print the table."""
    block = bytes(1024 * 1024)
    print(f"calibration: SHA-256 of 1 MiB {milliseconds(lambda: sha256(block), ROUNDS):.2f} ms")
    print("files   size        create     verify     sealed      step 1     step 2     step 3   (ms)")
    for file_count in FILE_COUNTS:
        print(measure(file_count))


if __name__ == "__main__":
    main()
