"""Faults of the disk, put into a running process by strace, and a file system that is full.

strace stops the process at the named system calls only as long as it is attached; ending strace ends the fault. LevelDB writes its log with
`write` and makes it durable with `fdatasync`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from node.storage.leveldb import SPACE_RESERVE_BYTES
from tests.faults.machine import HarnessError
from tests.faults.node import Node

SYNCS: Final = "fsync,fdatasync"
ATTACH_TIMEOUT_S: Final = 10.0
LOW_BYTES: Final = SPACE_RESERVE_BYTES - 16 * 1024 * 1024
"""What a disk that is low has left: less than the node keeps in reserve, which is what a compaction of its database can need."""
BALLAST: Final = "BALLAST"
CHUNK_BYTES: Final = 1 << 20


@contextmanager
def injected(node: Node, expression: str, *, paths: Sequence[Path] = ()) -> Iterator[None]:
    """Let a fault happen to the node's system calls during the body, as `strace -e inject=` describes it."""
    calls = expression.partition(":")[0]
    command = ["strace", "-f", "-qq", "-p", str(node.pid), "-o", str(node.home / "strace.log")]
    command += ["-e", f"trace={calls}", "-e", f"inject={expression}"]
    for path in paths:
        command += ["-P", str(path)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        _wait_attached(node, tracer)
        yield
    finally:
        # On SIGTERM strace lets the process go, which then runs on without the fault.
        with suppress(ProcessLookupError):
            tracer.send_signal(signal.SIGTERM)
        try:
            tracer.wait(ATTACH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait(ATTACH_TIMEOUT_S)
        if tracer.stderr is not None:
            tracer.stderr.close()


def has_injected(node: Node) -> bool:
    """Return whether a call has failed since the last `injected` began."""
    with suppress(FileNotFoundError), (node.home / "strace.log").open("rb") as lines:
        return any(b"(INJECTED)" in line for line in lines)
    return False


def _wait_attached(node: Node, tracer: subprocess.Popen[bytes]) -> None:
    """Return when every thread of the node is traced."""
    begin = time.monotonic()
    while time.monotonic() - begin < ATTACH_TIMEOUT_S:
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            raise HarnessError(f"strace ended: {tracer.stderr.read().decode(errors='replace').strip()[:300]}")
        if not node.is_running or _untraced_threads(node.pid) == 0:
            return
        time.sleep(0.01)
    raise HarnessError("strace did not attach in time")


def _untraced_threads(pid: int) -> int:
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            count += "TracerPid:\t0\n" in (task / "status").read_text(encoding="utf-8")
    return count


def log_files(node: Node) -> list[Path]:
    """Return the LevelDB log files that the node's process has open now."""
    found = []
    for entry in Path(f"/proc/{node.pid}/fd").iterdir():
        with suppress(OSError):
            target = entry.readlink()
            if target.suffix == ".log" and target.is_relative_to(node.data):
                found.append(target)
    return found


def fill(node: Node, left_bytes: int) -> None:
    """Write ballast onto the node's small disk until so much is left; 0 leaves not a byte."""
    assert node.has_small_disk
    ballast = node.data / BALLAST
    # The last write may find less room than it needs. Unbuffered, or closing the file would try the same write again.
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while (free := free_bytes(node)) > left_bytes:
            file.write(bytes(min(CHUNK_BYTES, free - left_bytes)))


def release(node: Node) -> None:
    """Take the ballast away."""
    (node.data / BALLAST).unlink(missing_ok=True)


def free_bytes(node: Node) -> int:
    """Return how much room the node's disk has for it."""
    status = os.statvfs(node.data)
    return status.f_bavail * status.f_frsize
