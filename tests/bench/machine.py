"""What the machine gives right now: figures from a shared machine mean something only beside these, taken in the same run."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from wire.keys import Algorithm, private_key_from_seed

ROUNDS = 5
VERIFICATIONS = 1000
SYNCS = 200


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def verify_us() -> float:
    """Return the microseconds of one Ed25519 verification on one core: median of a few rounds."""
    key = private_key_from_seed(Algorithm.ED25519, bytes(32))
    message = bytes(32)
    signature = key.sign(message)
    rounds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(VERIFICATIONS):
            key.public_key.verify(message, signature)
        rounds.append((time.perf_counter() - begin) / VERIFICATIONS * 1e6)
    return statistics.median(rounds)


def sync_ms() -> float:
    """Return the milliseconds of one fdatasync after a 300-byte append: the median."""
    with tempfile.NamedTemporaryFile() as file:
        times = []
        for _ in range(SYNCS):
            begin = time.perf_counter()
            os.write(file.fileno(), bytes(300))
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def load_average() -> float:
    """Return the machine's load over the last minute: above 0.5 at the start, somebody else is at work."""
    return os.getloadavg()[0]
