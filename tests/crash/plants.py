"""Bugs put into the agent on purpose: each must be found, or the harness proves nothing. They live only in the processes that are hurt."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import agent.applying
import agent.lifecycle
from agent.files import Files
from agent.record_log import RecordLog
from agent.switch import staged_path


def _nothing(*arguments: Any, **named: Any) -> None:
    """Do nothing."""


def _no_sync() -> None:
    Files.sync = Files.sync_directory = Files.sync_filesystem = _nothing  # type: ignore[method-assign]


def _late_journal() -> None:
    write, switch = agent.applying.write_journal, agent.applying.switch_trees
    late: list[tuple[Any, ...]] = []

    def keep(*arguments: Any) -> None:
        late.append(arguments)

    def switch_first(files: Files, target: Any, journal: Any) -> None:
        switch(files, target, journal)
        write(*late.pop())

    agent.applying.write_journal, agent.applying.switch_trees = keep, switch_first


def _two_renames() -> None:
    def switch(files: Files, target: Any, journal: Any) -> None:
        files.rename(target.root, target.root + ".old")
        files.rename(staged_path(target), target.root)
        files.rename(target.root + ".old", staged_path(target))

    agent.applying.switch_trees = switch


def _half_outbox() -> None:
    append = RecordLog.append

    def forget(self: RecordLog, record: Any) -> None:
        if record.get("op") == "queue" and record.get("intent") is not None:
            self._records.append(record)
        else:
            append(self, record)

    RecordLog.append = forget  # type: ignore[method-assign]


def _swallowed_error() -> None:
    write = Files.write

    def swallow(self: Files, descriptor: int, data: bytes, path: Any) -> None:
        with suppress(OSError):
            write(self, descriptor, data, path)

    Files.write = swallow  # type: ignore[method-assign]


def _eager_clean_up() -> None:
    settle = agent.applying.settle

    def settle_and_finish(files: Files, store: Any, config: Any, intent: Any) -> Any:
        settled = settle(files, store, config, intent)
        agent.applying.finish(files, store, config)
        return settled

    agent.lifecycle.settle = settle_and_finish


def _overwritten_state() -> None:
    def keep(files: Files, path: str, data: bytes, mode: int = 0o600) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    Files.replace = keep  # type: ignore[method-assign, assignment]


PLANTS: Final[dict[str, Callable[[], None]]] = {
    "no-sync": _no_sync,
    "late-journal": _late_journal,
    "two-renames": _two_renames,
    "half-outbox": _half_outbox,
    "swallowed-error": _swallowed_error,
    "eager-clean-up": _eager_clean_up,
    "overwritten-state": _overwritten_state,
}
"""By name: nothing is synced; the journal comes after the switch; the switch is made of renames; outcomes are not written down; a failed
write is taken for a good one; the journal goes before the outcome stands; state files are overwritten where they stand."""
FOUND_BY: Final = {
    "no-sync": ("power", "ext4", 4),
    "late-journal": ("kill", "memory", 1),
    "two-renames": ("kill", "memory", 1),
    "half-outbox": ("kill", "memory", 9),
    "swallowed-error": ("enospc", "memory", 1),
    "eager-clean-up": ("kill", "memory", 1),
    "overwritten-state": ("torn", "memory", 1),
}
"""The fault of an application by which each must be found, the disk, and every how many-th point is enough."""
