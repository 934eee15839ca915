"""The highest certified block that this host has acted on, kept outside the replica's database.

A replica that was restored to an earlier state, or that shows another block at that height, is not believed: whoever can roll a database
back must not bring a revoked key or a withdrawn patch back with it.

Source: docs/spec/agent.md 4.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import ReplicaStaleError
from agent.files import Files
from agent.state_file import damaged, read_state, write_state
from ledger.state import StateView
from wire.hashing import DIGEST_BYTES, Digest


@dataclass(frozen=True, slots=True)
class HighWater:
    """A certified block."""

    height: int
    block_hash: Digest
    """32 bytes."""


def read_high_water(path: str) -> HighWater | None:
    """Return the recorded block, or None before the first. Raises StateCorruptError."""
    document = read_state(path)
    if document is None:
        return None
    try:
        block_hash = bytes.fromhex(document["block_hash"])
        if len(block_hash) != DIGEST_BYTES or type(document["height"]) is not int:
            raise ValueError("a member is not one")
        return HighWater(document["height"], Digest(block_hash))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"does not have its form: {error}") from error


def write_high_water(files: Files, path: str, mark: HighWater) -> None:
    """Make `mark` durable. Raises OSError."""
    write_state(files, path, {"height": mark.height, "block_hash": mark.block_hash.hex()})


def check_replica(view: StateView, mark: HighWater | None, age_ms: int, age_ms_max: int, now_ms: int) -> HighWater:
    """Return the replica's newest block, on which a decision may stand.

    Args:
        view: The replica at one height.
        mark: The highest block acted on so far.
        age_ms: The age of the newest certified block.
        age_ms_max: The greatest age to decide on.
        now_ms: The host's clock, milliseconds since the epoch, UTC.

    Raises:
        ReplicaStaleError: ``agent.replica.stale``, ``agent.replica.clock_behind``, ``agent.replica.rolled_back``, ``agent.replica.forked``.
    """
    if age_ms > age_ms_max:
        raise ReplicaStaleError(
            "agent.replica.stale",
            "the newest certified block is too old to decide on",
            expected=f"at most {age_ms_max} ms",
            actual=f"{age_ms} ms",
            hint="wait until the node has caught up with its peers",
        )
    if now_ms < view.header.time_ms - age_ms_max:
        raise ReplicaStaleError(
            "agent.replica.clock_behind",
            "the host's clock is far behind the newest certified block, so nobody can tell how old the replica is",
            expected=f"at most {age_ms_max} ms behind",
            actual=f"{view.header.time_ms - now_ms} ms",
            hint="set the host's clock",
        )
    tip = view.tip
    if mark is not None:
        if tip.header.height < mark.height:
            raise ReplicaStaleError(
                "agent.replica.rolled_back",
                "the replica is older than what this host has already acted on",
                expected=f"height {mark.height} or more",
                actual=tip.header.height,
                hint="let the node catch up; if it does not, its data directory was replaced",
            )
        header = view.header_at(mark.height)
        if header is not None and header.hash() != mark.block_hash:
            raise ReplicaStaleError(
                "agent.replica.forked",
                f"the replica shows another block at height {mark.height} than this host has acted on",
                expected=mark.block_hash,
                actual=header.hash(),
                hint="stop the node and audit both chains: two certified blocks of one height convict a validator",
            )
    return HighWater(tip.header.height, tip.block_hash)
