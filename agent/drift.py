"""When targets are compared with their records: often and cheaply, now and then in full, and on ten thousand hosts not all at once.

The moment within an interval is decided by the host's identity, not by chance: a fleet that starts at one time scans spread over the
interval, and everybody can compute who scans when. A cheap scan believes the status of a file; a full one reads every file, because a
change below the file system shows no new status. When the last full one was stands on the disk, so that a restart puts off nothing.

Source: docs/spec/agent.md 3.3.
"""

from __future__ import annotations

from typing import Final

from agent.files import Files
from agent.state_file import damaged, read_state, write_state
from agent.target import TargetStore
from wire.hashing import DIGEST_BYTES, Digest, sha256

SCAN_FILE: Final = "scan.json"
NO_TREE: Final = Digest(bytes(DIGEST_BYTES))
"""What stands for the digest of a tree that cannot be one: no tree has it."""
PASSING: Final = frozenset({"agent.target.changing", "agent.target.unreadable"})
"""Why a tree may not be readable for a moment, without anything being wrong with it."""
_FRACTION_BYTES: Final = 8


def own_moment_s(identity_id: str, interval_s: float) -> float:
    """Return the moment within an interval that is this host's own, from 0 up to but not including `interval_s` seconds."""
    drawn = sha256(identity_id.encode())[:_FRACTION_BYTES]
    return interval_s * (int.from_bytes(drawn, "big") >> 11) / (1 << 53)


def read_full_scan_ms(store: TargetStore) -> int | None:
    """Return when every file of a target was read last, milliseconds since the epoch, or None when nobody knows.

    Raises:
        StateCorruptError: ``agent.state.damaged``.
    """
    path = store.path(SCAN_FILE)
    document = read_state(path)
    if document is None:
        return None
    if document.get("version") != 1 or type(document.get("full_ms")) is not int:
        raise damaged(path, "does not have its form")
    return int(document["full_ms"])


def write_full_scan_ms(files: Files, store: TargetStore, now_ms: int) -> None:
    """Remember that every file was read now. Raises OSError."""
    write_state(files, store.path(SCAN_FILE), {"version": 1, "full_ms": now_ms})


def is_full_due(last_ms: int | None, now_ms: int, interval_s: float) -> bool:
    """Return whether every file is to be read; also when the clock went back behind the last time."""
    return last_ms is None or not last_ms <= now_ms < last_ms + interval_s * 1000
