"""Bugs put into the agent on purpose: each must be found, or the harness proves nothing. They live only in the processes that are hurt."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import agent.applying
import agent.lifecycle
from agent.files import PRIVATE_FILE_MODE, Files
from agent.record_log import RecordLog
from agent.switch import staged_path
from agent.target import JOURNAL_FILE


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


def _no_journal() -> None:
    replace = Files.replace

    def forget(self: Files, path: str, data: bytes, mode: int = PRIVATE_FILE_MODE) -> None:
        if not path.endswith(JOURNAL_FILE):
            replace(self, path, data, mode)

    Files.replace = forget  # type: ignore[method-assign]


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

    def settle_and_finish(files: Files, store: Any, config: Any, *others: Any, **named: Any) -> Any:
        settled = settle(files, store, config, *others, **named)
        agent.applying.finish(files, store, config)
        return settled

    agent.lifecycle.settle = settle_and_finish


def _overwritten_state() -> None:
    def keep(files: Files, path: str, data: bytes, mode: int = PRIVATE_FILE_MODE) -> None:
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
    "no-journal": _no_journal,
    "two-renames": _two_renames,
    "half-outbox": _half_outbox,
    "swallowed-error": _swallowed_error,
    "eager-clean-up": _eager_clean_up,
    "overwritten-state": _overwritten_state,
}
"""By name: nothing is synced; the journal comes after the switch; there is none, in place; the switch is made of renames; outcomes are not
written down; a failed write is taken for a good one; the journal goes before the outcome stands; state files are overwritten."""
FOUND_BY: Final = {
    "no-sync": ("exchange", "power", "ext4", 4, "lost: "),
    "late-journal": ("exchange", "kill", "memory", 1, "the records do not explain the tree"),
    "no-journal": ("in-place", "kill", "memory", 1, "the records do not explain the tree"),
    "two-renames": ("exchange", "kill", "memory", 1, "mixed: "),
    "half-outbox": ("exchange", "kill", "memory", 5, "0 outcomes say SUCCESS"),
    "swallowed-error": ("exchange", "enospc", "memory", 1, "the agent does not start"),
    "eager-clean-up": ("exchange", "kill", "memory", 1, "0 outcomes say SUCCESS"),
    "overwritten-state": ("exchange", "torn", "memory", 1, "the agent does not start"),
}
"""The mode and the fault of an application by which each must be found, the disk, every how many-th point is enough, and as what."""
