"""Two certified histories of one network, and whether somebody who answers for this host has said how to go on.

While a split view is known that nobody has settled here, nothing is applied: one of the two histories may have revoked the key, or
withdrawn the patch, that the other one vouches for. It is known when this node found it itself, or when the evidence is on the ledger.

Source: docs/spec/agent.md 4.5.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from agent.errors import ReplicaStaleError, SplitViewRefusedError
from agent.files import Files
from agent.limits import SPLIT_VIEW_REASON_BYTES_MAX, SPLIT_VIEWS_SETTLED_MAX
from agent.state_file import damaged, read_state, write_state
from ledger.rules_evidence import SPLIT_VIEW_KIND
from ledger.state import StateView
from wire.fields import as_text

_SHOWN_MAX: Final = 8
_MEMBERS: Final = {"height": int, "reason": str, "by": str, "time_ms": int}


@dataclass(frozen=True, slots=True)
class SettledSplit:
    """What an operator of this host has said about one split view."""

    height: int
    """The height at which the histories differ."""
    reason: str
    """Why this host goes on, one line."""
    by: str
    """Who said so: a local name."""
    time_ms: int
    """When, by the host's clock; milliseconds since the epoch, UTC."""


@dataclass(frozen=True, slots=True)
class SplitViewStatus:
    """One split view as this host sees it."""

    height: int
    """The height at which the histories differ."""
    is_found_here: bool
    """Whether this node has met the other history itself."""
    is_on_ledger: bool
    """Whether the evidence is on the ledger."""
    settled: SettledSplit | None
    """What was said about it here, or None while it stops this host."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        said = self.settled
        return {
            "height": self.height,
            "found_here": self.is_found_here,
            "on_ledger": self.is_on_ledger,
            "settled": None if said is None else {"reason": said.reason, "by": said.by, "time_ms": said.time_ms},
        }


class SplitViews:
    """What was settled, in one state file.

    Args:
        files: The door to the file system.
        path: The file.

    Raises:
        StateCorruptError: ``agent.state.damaged``: what was settled is not known, so nothing may be decided.
    """

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path
        self._settled = {each.height: each for each in _read(path)}
        self._writing = threading.Lock()

    def known(self, found_here: Iterable[int], view: StateView) -> tuple[SplitViewStatus, ...]:
        """Return every split view that is known, lowest height first.

        Args:
            found_here: Heights at which this node has found one.
            view: The replica; it may hold evidence of others.
        """
        here, recorded = frozenset(found_here), _recorded(view)
        return tuple(
            SplitViewStatus(height, height in here, height in recorded, self._settled.get(height))
            for height in sorted(here | recorded)
        )

    def check_settled(self, found_here: Iterable[int], view: StateView) -> None:
        """Return when no split view is known, or every one is settled.

        Raises:
            ReplicaStaleError: ``agent.replica.split_view``.
        """
        open_heights = [each.height for each in self.known(found_here, view) if each.settled is None]
        if open_heights:
            shown = ", ".join(map(str, open_heights[:_SHOWN_MAX])) + (", …" if len(open_heights) > _SHOWN_MAX else "")
            raise ReplicaStaleError(
                "agent.replica.split_view",
                "the validators have certified two histories, and nobody has settled on this host which one to believe",
                expected="no split view, or each one settled",
                actual=f"open at height {shown}",
                hint=f"compare both histories (patchwarden audit blame); once it is settled: "
                f"patchwarden agent split-view settle {open_heights[0]} --reason TEXT",
            )

    def settle(self, said: SettledSplit, found_here: Iterable[int], view: StateView) -> SplitViewStatus:
        """Return the split view at a height after what was said about it is durable; said again, it replaces what was said before.

        Raises:
            SplitViewRefusedError: ``agent.split_view.unknown``, ``agent.split_view.too_many``.
            MalformedError: ``wire.field.*``: the reason is not one line of at most `SPLIT_VIEW_REASON_BYTES_MAX` bytes.
            OSError: It was not written; nothing has changed.
        """
        here = frozenset(found_here)
        if said.height not in {each.height for each in self.known(here, view)}:
            raise SplitViewRefusedError(
                "agent.split_view.unknown", "no split view is known at this height", actual=said.height
            )
        as_text(said.reason, "reason", SPLIT_VIEW_REASON_BYTES_MAX, 1)
        # Two that settle at once come from two threads: neither may lose what the other has said.
        with self._writing:
            settled = {**self._settled, said.height: said}
            if len(settled) > SPLIT_VIEWS_SETTLED_MAX:
                raise SplitViewRefusedError(
                    "agent.split_view.too_many",
                    "too many split views are settled on this host already",
                    expected=f"at most {SPLIT_VIEWS_SETTLED_MAX}",
                    hint="a network that splits this often is not to be trusted",
                )
            write_state(self._files, self._path, {"version": 1, "settled": [asdict(each) for each in settled.values()]})
            self._settled = settled
        return next(each for each in self.known(here, view) if each.height == said.height)


def _recorded(view: StateView) -> frozenset[int]:
    return frozenset(
        record.fork_height
        for record in view.evidences()
        if record.kind == SPLIT_VIEW_KIND and record.fork_height is not None
    )


def _read(path: str) -> list[SettledSplit]:
    document = read_state(path)
    if document is None:
        return []
    entries = document.get("settled")
    if document.get("version") != 1 or not isinstance(entries, list):
        raise damaged(path, "does not have its form")
    for entry in entries:
        if (
            not isinstance(entry, dict)
            or entry.keys() != _MEMBERS.keys()
            or any(type(entry[name]) is not kind for name, kind in _MEMBERS.items())
        ):
            raise damaged(path, "does not have its form")
    return [SettledSplit(**entry) for entry in entries]
